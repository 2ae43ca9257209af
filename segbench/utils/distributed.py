"""Differentiable sums over processes, so that a loss is the mean over the global batch.

`DistributedDataParallel` averages gradients over processes. If every process divided by its own number of
labelled pixels, this average would not be the gradient of the mean over the global batch, since these numbers
differ.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed


def num_processes() -> int:
    """Returns the world size; 1 without a process group."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def all_reduce_sum(*shares: Tensor) -> tuple[Tensor, ...]:
    """Sums tensors over all processes, each of which must call it.

    Args:
        shares: Results for the local part of the batch, of any shapes, equal in all processes.

    Returns:
        The sums, all of one dtype. Their gradient, averaged over the processes, is that of the global batch.
        With one process, `shares` unchanged.
    """
    if num_processes() == 1:
        return shares
    flat: Tensor = _BatchSum.apply(pack(shares))
    return unpack(flat, shares)


def pack(tensors: Sequence[Tensor]) -> Tensor:
    """Concatenates flattened tensors, for one collective call instead of several.

    Args:
        tensors: Of any shapes and dtypes.

    Returns:
        One-dimensional, in float32 or a wider dtype.
    """
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return torch.cat([tensor.to(dtype).flatten() for tensor in tensors])


def unpack(flat: Tensor, like: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Splits the result of `pack` into tensors.

    Args:
        flat: Has as many elements as all tensors of `like` together.
        like: Tensors of the shapes to restore.

    Returns:
        Views, in the dtype of `flat`.
    """
    pieces = torch.split(flat, [tensor.numel() for tensor in like])
    return tuple(piece.view(tensor.shape) for piece, tensor in zip(pieces, like, strict=True))


class _BatchSum(torch.autograd.Function):
    """Sums over processes and scales gradients by the world size, by which DDP divides them again."""

    @staticmethod
    def forward(_: Any, share: Tensor) -> Tensor:
        total = share.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, *grads: Tensor) -> Tensor:
        return grads[0] * num_processes()

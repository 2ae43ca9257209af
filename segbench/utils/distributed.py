"""Sums over the processes that share a batch, so that a loss is that of the whole batch and not of one share.

`DistributedDataParallel` averages gradients. Where every process divides by its own number of labelled pixels,
that average is not the gradient of the whole batch's mean, since shares have different numbers of them.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed


def num_processes() -> int:
    """Counts the processes that train together, 1 where there is no process group."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def all_reduce_sum(*shares: Tensor) -> tuple[Tensor, ...]:
    """Adds up what the processes computed on their shares of a batch; all of them must call it.

    Args:
        shares: Of any shapes, the same ones in all processes.

    Returns:
        The sums, whose gradient, averaged over the processes, is that of the whole batch. With one process
        what was given, otherwise all of one type.
    """
    if num_processes() == 1:
        return shares
    flat: Tensor = _BatchSum.apply(packed(shares))
    return unpacked(flat, shares)


def packed(tensors: Sequence[Tensor]) -> Tensor:
    """Puts tensors one behind the other, so that one message carries them all.

    Args:
        tensors: Of any shapes and types.

    Returns:
        Flat, float32 or finer.
    """
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return torch.cat([tensor.to(dtype).flatten() for tensor in tensors])


def unpacked(flat: Tensor, like: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Takes apart what `packed` made.

    Args:
        flat: As long as all tensors together.
        like: Tensors of the shapes wanted.

    Returns:
        Views, in the type of `flat`.
    """
    pieces = torch.split(flat, [tensor.numel() for tensor in like])
    return tuple(piece.view(tensor.shape) for piece, tensor in zip(pieces, like, strict=True))


class _BatchSum(torch.autograd.Function):
    """Adds over processes; gradients go back to each share as often as they are averaged afterwards."""

    @staticmethod
    def forward(_: Any, share: Tensor) -> Tensor:
        total = share.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, *grads: Tensor) -> Tensor:
        return grads[0] * num_processes()

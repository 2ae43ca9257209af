"""Batch norms whose statistics are those of the whole batch where several processes have a share of it each.

torch has such a layer for GPUs alone. There it replaces batch norms through timm's conversion, since torch's
drops the activation that timm keeps inside a batch norm. On CPUs the layer of this file does the same.
"""

from collections.abc import Iterator
from typing import Any

import torch
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, nn
from torch.distributed.nn import functional as collectives
from torch.nn.modules.batchnorm import _BatchNorm

from segbench.utils.distributed import num_processes, pack, unpack

_AFTER = ("drop", "act")  # what timm's BatchNormAct2d does after it has normalised


class CpuSyncBatchNorm(_BatchNorm):
    """`nn.BatchNorm` over all processes in training; in evaluation, and with one process, the plain layer."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name torch gives it)
        """Normalises `(B, C, …)` over all dimensions but `C`; in training all processes must call it."""
        shared = self.training and num_processes() > 1
        output = self._normalize(input) if shared else super().forward(input)
        for name in _AFTER:
            if name in self._modules:
                output = self.get_submodule(name)(output)
        return output

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002
        """Takes maps, sequences and volumes alike."""

    def _normalize(self, x: Tensor) -> Tensor:
        others = [0, *range(2, x.ndim)]
        shape = (1, -1, *[1] * (x.ndim - 2))
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        count = torch.tensor(float(x.numel() // x.shape[1]))
        total, count = self._sums(values.sum(others), count)
        mean = total / count
        centred = values - mean.view(shape)
        (square,) = self._sums(centred.square().sum(others))
        variance = square / count
        self._track(mean.detach(), (square / (count - 1)).detach())
        scale = (variance + self.eps).rsqrt()
        normalized = centred * scale.view(shape)
        if self.affine:
            normalized = normalized * self.weight.view(shape) + self.bias.view(shape)
        return normalized.to(x.dtype)

    def _sums(self, *shares: Tensor) -> tuple[Tensor, ...]:
        """Adds over processes. Each sum acts on the outputs of all, so that gradients add up as well."""
        return unpack(collectives.all_reduce(pack(shares)), shares)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return  # track_running_stats=False
        self.num_batches_tracked.add_(1)
        momentum = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance, momentum)


def batch_norms(model: nn.Module) -> Iterator[_BatchNorm]:
    """Finds all batch norms of a model, synchronised or not."""
    return (module for module in model.modules() if isinstance(module, _BatchNorm))


def synchronize(model: nn.Module, device_type: str) -> None:
    """Puts a synchronised layer in the place of each batch norm, with the same parameters and buffers.

    Args:
        model: Changed in place; names and values of its state stay. Not a batch norm itself.
        device_type: Of the device that it is going to be on, such as `cuda`.
    """
    if device_type != "cpu":
        convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, _BatchNorm) and not isinstance(child, CpuSyncBatchNorm):
                setattr(parent, name, _synchronized(child))


def _synchronized(norm: _BatchNorm) -> CpuSyncBatchNorm:
    options: dict[str, Any] = {"eps": norm.eps, "momentum": norm.momentum, "affine": norm.affine}
    synced = CpuSyncBatchNorm(norm.num_features, track_running_stats=norm.track_running_stats, **options)
    for name, parameter in norm.named_parameters(recurse=False):
        setattr(synced, name, parameter)
    for name, buffer in norm.named_buffers(recurse=False):
        setattr(synced, name, buffer)
    for name in _AFTER:
        if isinstance(after := getattr(norm, name, None), nn.Module):
            synced.add_module(name, after)
    return synced.train(norm.training)

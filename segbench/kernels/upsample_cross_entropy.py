"""Cross-entropy at full resolution straight from low-resolution logits, never holding the upsampled logits.

The value is that of `F.cross_entropy(F.interpolate(logits, size, mode="bilinear"), target)`; the gradient of the
low-resolution logits is computed in the same pass.
"""

import math
import os
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from segbench.functional.resize import bilinear_taps

Backend = Literal["auto", "plain", "chunked"]

# Upsampled logits in flight. CPU: they stay in cache. Elsewhere: large enough that launches do not count.
BAND_BYTES_CPU = 4 << 20
BAND_BYTES_DEVICE = 128 << 20
LABEL_TYPES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def upsample_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int = 255,
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    backend: Backend = "auto",
) -> Tensor:
    """Computes the mean cross-entropy of bilinearly upsampled logits.

    Args:
        logits: `(B, K, h, w)`.
        target: `(B, H, W)` integer classes; uint8 is the cheapest.
        ignore_index: The label of pixels that do not count.
        weight: `(K,)` factor of each class, which also enters the mean.
        label_smoothing: Share of the target that is spread evenly over all classes.
        backend: "plain" holds all upsampled logits, "chunked" a few rows of them. "auto" takes what the
            environment variable SEGBENCH_KERNELS says, else "chunked".

    Returns:
        A scalar, float32 for half-precision logits; 0, not nan, when every pixel is ignored.

    Raises:
        ValueError: If a shape, type or backend is unsuitable or, on the CPU, a label is no class.
    """
    _check_arguments(logits, target, weight, label_smoothing)
    backend = _choose(backend)
    with torch.autocast(logits.device.type, enabled=False):
        if backend == "plain":
            return _plain(logits, target, weight, ignore_index, label_smoothing)
        needs_grad = logits.requires_grad and torch.is_grad_enabled()
        loss, _ = _chunked(logits, target, weight, ignore_index, label_smoothing, needs_grad)
        return loss


def _plain(logits: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, smoothing: float) -> Tensor:
    """Computes the loss the obvious way."""
    full = F.interpolate(logits.to(_accumulator(logits)), target.shape[1:], mode="bilinear", align_corners=False)
    label, valid = _labels(target.long(), ignore_index, logits.shape[1])  # (B, H, W)
    weight = _class_weight(weight, full)
    loss = F.cross_entropy(
        full,
        label.where(valid, -1),
        weight,
        ignore_index=-1,
        reduction="sum",
        label_smoothing=smoothing,
    )
    return loss * _inverse((weight[label] * valid).sum())


class _Runs(NamedTuple):
    """One axis, its pixels sorted into runs that lie between the same two cells.

    All runs are equally long, so that interpolating a run is a broadcast; those too short end in pixels that
    are not `real`. `n` runs of `l` pixels.

    Attributes:
        lower: `(n,)` cell before the run.
        upper: `(n,)` cell behind it.
        pixel: `(n, l)` index of each pixel, 0 where not real.
        share: `(n, l)` share of the upper cell in each pixel.
        real: `(n, l)` whether there is such a pixel.
    """

    lower: Tensor
    upper: Tensor
    pixel: Tensor
    share: Tensor
    real: Tensor


@lru_cache(maxsize=64)
def _runs(size: int, out_size: int, length: int, device: torch.device, dtype: torch.dtype) -> _Runs:
    """Sorts an axis of `out_size` pixels over `size` cells into runs of `length`."""
    taps = bilinear_taps(size, out_size, dtype=dtype)
    pixel = torch.arange(out_size)
    place = (pixel - torch.searchsorted(taps.lower, taps.lower)) % length
    run = (place == 0).cumsum(0) - 1
    count = int(run[-1]) + 1

    def table(values: Tensor) -> Tensor:
        return values.new_zeros(count, length).index_put_((run, place), values)

    first = pixel[place == 0]
    runs = _Runs(
        taps.lower[first],
        taps.upper[first],
        table(pixel),
        table(taps.weight),
        table(torch.ones(out_size, dtype=torch.bool)),
    )
    return _Runs(*(part.to(device) for part in runs))


def _band_shape(ratio: float, row_bytes: int, device: torch.device) -> tuple[int, int]:
    """Chooses how many rows make a run and how many runs a band."""
    budget = BAND_BYTES_CPU if device.type == "cpu" else BAND_BYTES_DEVICE
    most = max(1, budget // row_bytes)
    whole = math.ceil(ratio)
    length = math.ceil(whole / math.ceil(whole / most))  # long runs are cut evenly, so that few pixels are not real
    return length, max(1, most // length)


@torch.library.custom_op("segbench::upsample_cross_entropy", mutates_args=())
def _chunked(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    smoothing: float,
    needs_grad: bool,
) -> tuple[Tensor, Tensor]:
    """Computes the loss and its gradient `(B, K, h, w)`, which is empty unless needed, band by band."""
    batch, num_classes, height, width = logits.shape
    out_height, out_width = target.shape[1:]
    dtype, device = _accumulator(logits), logits.device
    columns = _runs(width, out_width, math.ceil(out_width / width), device, dtype)
    row_bytes = num_classes * columns.pixel.numel() * dtype.itemsize
    length, runs_per_band = _band_shape(out_height / height, row_bytes, device)
    rows = _runs(height, out_height, length, device, dtype)
    bands = [(image, start) for image in range(batch) for start in range(0, len(rows.lower), runs_per_band)]
    class_weight = _class_weight(weight, torch.empty(0, dtype=dtype, device=device))

    loss, total = torch.zeros(2, dtype=dtype, device=device)
    buffer = torch.empty(runs_per_band, length, num_classes, columns.pixel.numel(), dtype=dtype, device=device)
    grad = torch.zeros(logits.shape if needs_grad else 0, dtype=dtype, device=device)
    for image, start in bands:
        band = _Runs(*(part[start : start + runs_per_band] for part in rows))
    return loss, grad

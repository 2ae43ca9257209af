"""Sums over the pixels of upsampled maps, one band of rows at a time, so that the maps never exist whole.

Going back, each band is computed again instead of being kept: one more forward pass buys a memory that grows
neither with the number of classes nor with the size of the image.
"""

import math
from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segbench.functional.resize import bilinear_taps

# Size of one upsampled band; a softmax and its gradient hold about five such. The CPU's stays near its cache,
# elsewhere launches should not count.
BAND_BYTES_CPU = 2 << 20
BAND_BYTES_DEVICE = 128 << 20

# A band (B, C, r, W) and which rows of the full size it holds → sums of any one shape.
Measure = Callable[[Tensor, slice], Tensor]


def sum_over_bands(cells: Tensor, size: tuple[int, int], measure: Measure, *, overlap: int = 0) -> Tensor:
    """Adds up what `measure` finds in all bands of the bilinearly upsampled cells.

    Args:
        cells: `(B, C, h, w)`, the only tensor to which gradients flow.
        size: `(H, W)` to which they are upsampled; `(h, w)` leaves them as they are.
        measure: Called with a band in at least float32, and its rows; called again for the gradient.
        overlap: Rows that each band shares with the next, for what is measured between rows. The band whose
            rows end at `H` is the last.

    Returns:
        The sum, of the shape that `measure` returns.
    """
    total: Tensor = _BandSum.apply(cells, size, measure, overlap)
    return total


class _BandSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, cells: Tensor, size: tuple[int, int], measure: Measure, overlap: int) -> Tensor:
        ctx.save_for_backward(cells)
        bands = ctx.bands = _Bands(cells, size, overlap)
        ctx.measure = measure
        with torch.autocast(cells.device.type, enabled=False):
            return reduce(torch.add, (measure(bands.upsample(cells, rows), rows) for rows in bands.rows))

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # as under create_graph=True; the gradient would pass for a constant
            raise ValueError("a sum over bands has no second derivative; leave create_graph at False")
        (cells,) = ctx.saved_tensors
        grad = torch.zeros_like(cells, dtype=_accumulator(cells))
        with torch.autocast(cells.device.type, enabled=False), torch.enable_grad():
            for rows in ctx.bands.rows:
                around = ctx.bands.around(rows)
                those = cells[:, :, around].detach().to(grad.dtype).requires_grad_()
                part = ctx.measure(ctx.bands.upsample(those, rows, around.start), rows)
                grad[:, :, around] += torch.autograd.grad(part, those, grad_total)[0]
        return grad.to(cells.dtype), None, None, None


class _Bands:
    """Where the bands lie, and how each comes out of the cells around it."""

    def __init__(self, cells: Tensor, size: tuple[int, int], overlap: int) -> None:
        height, self.width = size
        self.same = size == cells.shape[2:]
        dtype = _accumulator(cells)
        here, there = (
            bilinear_taps(cells.shape[2], height, device=device, dtype=dtype)
            for device in (torch.device("cpu"), cells.device)
        )
        self.lower, self.upper, self.taps = here.lower.tolist(), here.upper.tolist(), there
        budget = BAND_BYTES_CPU if cells.device.type == "cpu" else BAND_BYTES_DEVICE
        most = max(1, budget // (len(cells) * cells.shape[1] * self.width * dtype.itemsize))
        step = math.ceil(height / math.ceil(height / most))  # cut evenly
        tops = range(0, max(1, height - overlap), step)
        self.rows = [slice(top, min(top + step + overlap, height)) for top in tops]

    def around(self, rows: slice) -> slice:
        """Tells of which rows of cells a band is made."""
        return rows if self.same else slice(self.lower[rows.start], self.upper[rows.stop - 1] + 1)

    def upsample(self, cells: Tensor, rows: slice, first: int = 0) -> Tensor:
        """Computes a band `(B, C, r, W)` from cells of which row `first` is the first."""
        dtype = _accumulator(cells)
        if self.same:
            return cells[:, :, rows.start - first : rows.stop - first].to(dtype)
        lower, upper = (cells.index_select(2, tap[rows] - first).to(dtype) for tap in self.taps[:2])
        band = torch.lerp(lower, upper, self.taps.weight[rows, None])  # (B, C, r, w)
        if band.device.type == "cpu":  # half the time there; the GPU's kernel goes through the channels in turn
            return F.interpolate(band.flatten(1, 2), self.width, mode="linear").view(*band.shape[:3], -1)
        return F.interpolate(band, (band.shape[2], self.width), mode="bilinear")


def _accumulator(cells: Tensor) -> torch.dtype:
    return torch.promote_types(cells.dtype, torch.float32)

"""Bilinear interpolation as broadcasting: the pixels of an axis sorted into runs between the same two cells."""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from segbench.functional.resize import bilinear_taps


class Runs(NamedTuple):
    """One axis as `n` runs of `l` pixels; runs that are too short end in pixels that are not `real`.

    Attributes:
        lower: `(n,)` index of the cell before the run.
        upper: `(n,)` index of the cell behind it.
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
def sort_into_runs(
    size: int, out_size: int, visible: int, length: int, device: torch.device, dtype: torch.dtype
) -> Runs:
    """Sorts the first pixels of an axis into runs of equal length.

    Args:
        size: Cells along the axis.
        out_size: Pixels along it.
        visible: How many of them are wanted.
        length: Pixels of a run; more than that between two cells become several runs.
        device: Where the tables are to lie; they are kept, so that later calls copy nothing.
        dtype: Floating type of the shares.

    Returns:
        Runs in the order of their pixels; every pixel is real once.
    """
    lower, upper, share = (values[:visible] for values in bilinear_taps(size, out_size, dtype=dtype))
    pixel = torch.arange(visible)
    place = (pixel - torch.searchsorted(lower, lower)) % length
    first = pixel[place == 0]
    run = (place == 0).cumsum(0) - 1

    def table(values: Tensor) -> Tensor:
        return values.new_zeros(len(first), length).index_put_((run, place), values)

    real = table(torch.ones(visible, dtype=torch.bool))
    parts = (lower[first], upper[first], table(pixel), table(share), real)
    return Runs(*(part.to(device) for part in parts))


def interpolate(lower: Tensor, upper: Tensor, share: Tensor, out: Tensor | None = None) -> Tensor:
    """Computes the pixels of runs from the cells around them.

    Args:
        lower: Values of the lower cells, broadcastable against `share`.
        upper: Values of the upper cells.
        share: Share of the upper cell.
        out: Where to write the pixels.

    Returns:
        `lower + share · (upper - lower)`.
    """
    return torch.addcmul(lower, upper - lower, share, out=out)


def fold_(grad: Tensor, share: Tensor, dim: int) -> Tensor:
    """Sums the gradients of the pixels of each run into those of the two cells around it; destroys `grad`.

    Args:
        grad: Gradient of interpolated values.
        share: Share of the upper cell in each, broadcastable.
        dim: The axis along the run.

    Returns:
        The gradients of the lower and of the upper cell, stacked in front; `dim` is gone.
    """
    both = grad.sum(dim)
    upper = grad.mul_(share).sum(dim)
    return torch.stack((both.sub_(upper), upper))

"""Bilinear interpolation taken apart into taps, so that it can be done a few rows at a time."""

from typing import NamedTuple

import torch
from torch import Tensor


class Taps(NamedTuple):
    """Which two input cells each output cell is made of, along one axis.

    `output[i] = (1 - weight[i]) · input[lower[i]] + weight[i] · input[upper[i]]`

    Attributes:
        lower: `(out,)` int64 index of the first cell.
        upper: `(out,)` int64 index of the second; `lower + 1`, or `lower` at the border.
        weight: `(out,)` share of the second cell, in [0, 1).
    """

    lower: Tensor
    upper: Tensor
    weight: Tensor


def bilinear_taps(size: int, out_size: int, *, device: torch.device | None = None, dtype: torch.dtype) -> Taps:
    """Computes the taps of `torch.nn.functional.interpolate(mode="bilinear", align_corners=False)`.

    Args:
        size: Cells of the input along this axis.
        out_size: Cells of the output.
        device: Where the taps are to lie.
        dtype: Floating type of the weights; positions are always computed in float64.

    Returns:
        The taps of one axis; two axes are independent of each other.
    """
    position = (torch.arange(out_size, dtype=torch.float64, device=device) + 0.5) * (size / out_size) - 0.5
    position = position.clamp(min=0)
    lower = position.floor().long().clamp(max=size - 1)
    upper = (lower + 1).clamp(max=size - 1)
    weight = torch.where(upper == lower, 0.0, position - lower)
    return Taps(lower, upper, weight.to(dtype))

"""Interpolation taken apart: into taps, so that it can be done a few rows at a time, and into matrices."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Resampling = Literal["bicubic-antialias", "bicubic", "bilinear"]


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


def resampling_matrix(size: int, out_size: int, resampling: Resampling, device: torch.device) -> Tensor:
    """Computes the matrix by which `torch.nn.functional.interpolate(align_corners=False)` maps one axis.

    It is made by tensor operations alone, so that a traced graph may leave `out_size` open.

    Args:
        size: Cells of the input along this axis.
        out_size: Cells of the output.
        resampling: Interpolation.
        device: Where the matrix is to lie.

    Returns:
        `(out_size, size)` float32; two axes are independent of each other.
    """
    cell = torch.arange(size, device=device, dtype=torch.float32)
    # As torch rounds: the distance of its result from the true one is mostly that of these positions.
    scale = cell.new_full((1,), size) / out_size  # cells of the input for each of the output
    position = (scale * (torch.arange(out_size, device=device) + 0.5) - 0.5)[:, None]  # (out, 1), in cells
    if resampling == "bicubic-antialias":
        # Wider by as much as the grid shrinks, and cut off at its border: PIL's filter, a = −1/2.
        weight = _cubic((cell - position) / scale.clamp(min=1), -0.5)
        return weight / weight.sum(1, keepdim=True)
    if resampling == "bilinear":
        return (1 - (cell - position.clamp(0, size - 1)).abs()).clamp(min=0)
    # Four taps of a = −3/4; those beyond the border fall to the cell at the border.
    tap = position.floor() + torch.arange(-1, 3, device=device)  # (out, 4)
    weight = _cubic(tap - position, -0.75)[..., None]  # (out, 4, 1)
    return (weight * (tap.clamp(0, size - 1)[..., None] == cell)).sum(1)


def _cubic(distance: Tensor, a: float) -> Tensor:
    """Evaluates Keys's cubic convolution kernel (1981), as torch and PIL have it."""
    x = distance.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * a * x - 4 * a
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))

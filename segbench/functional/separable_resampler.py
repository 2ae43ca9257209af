"""Sparse linear maps along one axis: upsampling, cropping, averaging of windows and resizing, in one step.

Bilinear interpolation treats rows and columns apart, and so do windows that stand on a grid. All steps from the
low-resolution logits of all windows to the pixels of the result are therefore one map for the rows and one for
the columns, and any tile of the result can be computed without the others.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from segbench.functional.resize import bilinear_taps

_CPU = torch.device("cpu")  # named, since a default device may be set


class SeparableResampler(NamedTuple):
    """The input cells of which each output cell is the weighted sum. Always on the CPU; it is small.

    Attributes:
        source: `(out, T)` int64 input cells.
        weight: `(out, T)` float64 weights; a cell with fewer than `T` taps has its zeros last.
    """

    source: Tensor
    weight: Tensor


class Tile(NamedTuple):
    """A rectangle of the result.

    Attributes:
        rows: Its rows.
        columns: Its columns.
        values: `(rows, K, columns)`.
    """

    rows: slice
    columns: slice
    values: Tensor


def bilinear_map(size: int, out_size: int) -> SeparableResampler:
    """Describes bilinear interpolation with `align_corners=False`.

    Args:
        size: Cells of the input.
        out_size: Cells of the output.

    Returns:
        The map from `size` to `out_size` cells.
    """
    taps = bilinear_taps(size, out_size, device=_CPU, dtype=torch.float64)
    source = torch.stack((taps.lower, taps.upper), 1)  # (out, 2)
    weight = torch.stack((1 - taps.weight, taps.weight), 1)
    return _collect(torch.arange(out_size, device=_CPU)[:, None], source, weight)


def windows_map(anchors: Sequence[int], window: int, cells: int, padded: int) -> SeparableResampler:
    """Describes windows that are upsampled, cropped, put in their places and averaged where they overlap.

    Args:
        anchors: First pixel of each window; together the windows cover the axis.
        window: Pixels of a window.
        cells: Cells of a window's prediction. The input is all predictions side by side.
        padded: Pixels to which these cells are upsampled before they are cropped to `window`.

    Returns:
        The map from `len(anchors) · cells` cells to the pixels of the axis.
    """
    inside = bilinear_map(cells, padded)
    starts = torch.tensor(anchors, device=_CPU)
    pixel = starts[:, None] + torch.arange(window, device=_CPU)  # (windows, window)
    share = 1 / torch.bincount(pixel.flatten()).double()[pixel]  # (windows, window)
    source = inside.source[:window] + torch.arange(len(starts), device=_CPU)[:, None, None] * cells
    return _collect(pixel[..., None], source, inside.weight[:window] * share[..., None])


def chain(first: SeparableResampler, second: SeparableResampler) -> SeparableResampler:
    """Composes two maps.

    Args:
        first: Applied to the input.
        second: Applied to what `first` gives.

    Returns:
        One map that does both.
    """
    output = torch.arange(len(second.source), device=_CPU)[:, None, None]
    weight = second.weight[..., None] * first.weight[second.source]  # (out, T2, T1)
    return _collect(output, first.source[second.source], weight)


def reverse(axis: SeparableResampler) -> SeparableResampler:
    """Mirrors the output.

    Args:
        axis: Any map.

    Returns:
        The map whose first output cell is the last of `axis`.
    """
    return SeparableResampler(axis.source.flip(0), axis.weight.flip(0))


def rectangle(
    cells: Tensor, rows: SeparableResampler, columns: SeparableResampler, down: slice, across: slice
) -> Tensor:
    """Computes one tile, from no more cells than it needs.

    Args:
        cells: `(h, K, w)` low-resolution maps; computed with in float32 unless they are float64.
        rows: Map of the `h` axis.
        columns: Map of the `w` axis.
        down: Rows of the tile.
        across: Columns of the tile.

    Returns:
        `(rows, K, columns)`.
    """
    (above, rows), (beside, columns) = _cut(rows, down), _cut(columns, across)
    cells = cells[above, :, beside]
    cells = cells.to(torch.promote_types(cells.dtype, torch.float32))
    everything = slice(None)
    widened = _apply(cells, 2, columns, _placed(columns, cells), everything)
    return _apply(widened, 0, rows, _placed(rows, cells), everything)


def tiles(
    cells: Tensor, rows: SeparableResampler, columns: SeparableResampler, tile_bytes: int | None = None
) -> Iterator[Tile]:
    """Computes the result tile by tile, so that it never lies in memory whole.

    Args:
        cells: `(h, K, w)` low-resolution maps; computed with in float32 unless they are float64.
        rows: Map of the `h` axis.
        columns: Map of the `w` axis.
        tile_bytes: Size of a tile; the working memory is about ten times that. By default it suits the device.

    Yields:
        Tiles that cover the result once.
    """
    cells = cells.to(torch.promote_types(cells.dtype, torch.float32))  # bf16 sums would lose ties
    # A tile fits the cache of one core; on a GPU it is large enough to hide the launches.
    tile_bytes = tile_bytes or (2**20 if cells.device.type == "cpu" else 2**26)
    height, width = len(rows.source), len(columns.source)
    column_bytes = cells.shape[0] * cells.shape[1] * cells.element_size()
    strip = max(1, 4 * tile_bytes // column_bytes)  # widened once, read by every tile below it
    rows_there, columns_there = _placed(rows, cells), _placed(columns, cells)
    for left in range(0, width, strip):
        across = slice(left, min(left + strip, width))
        widened = _apply(cells, 2, columns, columns_there, across)  # (h, K, strip)
        band = max(1, tile_bytes // (widened[0].numel() * widened.element_size()))
        for top in range(0, height, band):
            down = slice(top, min(top + band, height))
            yield Tile(down, across, _apply(widened, 0, rows, rows_there, down))


def _collect(output: Tensor, source: Tensor, weight: Tensor) -> SeparableResampler:
    """Gathers taps `(output, source, weight)`, which broadcast; repeated taps are added, empty ones dropped."""
    output, source, weight = (part.expand(weight.shape).flatten() for part in (output, source, weight))
    output, source, weight = (part[weight != 0] for part in (output, source, weight))
    cells = int(source.max()) + 1
    key, place = torch.unique(output * cells + source, return_inverse=True)  # sorted by output, then by cell
    total = torch.zeros(len(key), dtype=torch.float64, device=_CPU).index_add_(0, place, weight)
    output = key // cells
    count = torch.bincount(output)
    slot = torch.arange(len(key), device=_CPU) - (count.cumsum(0) - count)[output]
    slots = (len(count), int(count.max()))
    result = SeparableResampler(source.new_zeros(slots), weight.new_zeros(slots))
    result.source[output, slot] = key % cells
    result.weight[output, slot] = total
    return result


def _cut(axis: SeparableResampler, part: slice) -> tuple[slice, SeparableResampler]:
    """Tells which cells a part of the output is made of, and how of these alone."""
    source, weight = axis.source[part], axis.weight[part]
    used = source[weight != 0]
    first, last = int(used.min()), int(used.max())
    return slice(first, last + 1), SeparableResampler(
        (source - first).clamp(min=0), weight
    )  # clamped: taps of no weight


def _placed(axis: SeparableResampler, like: Tensor) -> SeparableResampler:
    """Copies a map to where it is needed, in the type it is needed in."""
    return SeparableResampler(axis.source.to(like.device), axis.weight.to(like.device, like.dtype))


def _apply(
    values: Tensor, dim: int, axis: SeparableResampler, there: SeparableResampler, part: slice
) -> Tensor:
    """Computes the cells `part` along `dim`; `there` is the map on the device of the values."""
    taps = int((axis.weight[part] != 0).sum(1).max())  # read from the CPU: no wait for the device
    shape = [-1 if d == dim else 1 for d in range(values.dim())]
    source, weight = there.source[part], there.weight[part]
    result = values.index_select(dim, source[:, 0]).mul_(weight[:, 0].view(shape))
    for tap in range(1, taps):
        # Multiplied and added apart: a fused step may round two equal classes differently and break their tie.
        result.add_(values.index_select(dim, source[:, tap]).mul_(weight[:, tap].view(shape)))
    return result

"""Labels of bilinearly upsampled logits; the upsampled logits never lie in memory whole.

A convex combination keeps a maximum that all its terms share. Most pixels lie between cells that agree in
their class and need no arithmetic at all; between the others only few classes can win.
"""

import ctypes
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from segbench.functional.separable_resampler import SeparableResampler, bilinear_map, tiles
from segbench.kernels import native
from segbench.kernels.backends import choose_backend

Backend = Literal["auto", "plain", "chunked", "native"]

PART_PIXELS = 1 << 14  # below that a second thread takes longer to wake than it saves
_LANES = 16  # as in argmax.c
_CPU = torch.device("cpu")  # and types too are named, since defaults may be set, as by precision: bf16-true


@torch.no_grad()  # labels have no gradient, and each tile would keep its graph
def upsample_argmax(logits: Tensor, size: tuple[int, int], *, backend: Backend = "auto") -> Tensor:
    """Computes the class of every pixel after bilinear upsampling with `align_corners=False`.

    Of classes that tie, the lowest index wins. Logits below float32 are interpolated in float32. Beside
    infinite or nan logits `plain` may differ from the others, which leave out cells of weight 0.

    Args:
        logits: `(B, K, h, w)` at any stride.
        size: `(H, W)` of the labels; smaller than the logits is allowed too.
        backend: `plain` is the reference in one line. The others need little memory and round alike:
            `chunked` runs everywhere, `native` up to float32 on a CPU with a C compiler; where a class exceeds
            another in all cells of a pixel by so little that rounding makes them equal there, only `native`
            still names the larger. `auto` takes what the environment variable SEGBENCH_KERNELS says, else the
            fastest.

    Returns:
        `(B, H, W)` labels, uint8 for up to 256 classes and int64 for more.

    Raises:
        ValueError: If the logits have no four dimensions, the size is not positive, or the backend unsuitable.
    """
    if logits.dim() != 4 or not logits.is_floating_point():
        raise ValueError(
            f"logits must be a float tensor (B, K, h, w), got {logits.dtype} {tuple(logits.shape)}"
        )
    if min(size) < 1:
        raise ValueError(f"size must be two positive numbers (H, W), got {size}")
    chosen = choose_backend(backend, [*_tiled(logits), "plain"])
    if chosen == "plain":
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        labels = F.interpolate(logits, size, mode="bilinear", align_corners=False).max(1).indices
        return labels.to(label_dtype(logits.shape[1]))
    rows, columns = bilinear_map(logits.shape[2], size[0]), bilinear_map(logits.shape[3], size[1])
    labels = logits.new_empty((len(logits), *size), dtype=label_dtype(logits.shape[1]))
    for image, result in zip(logits, labels, strict=True):
        argmax_tiles(
            image.transpose(0, 1),
            rows,
            columns,
            out=result,
            backend="native" if chosen == "native" else "chunked",
        )
    return labels


def argmax_tiles(
    cells: Tensor,
    rows: SeparableResampler,
    columns: SeparableResampler,
    *,
    out: Tensor,
    tile_bytes: int | None = None,
    backend: Literal["auto", "chunked", "native"] = "auto",
) -> Tensor:
    """Computes the class of every pixel of one image whose logits are given by two maps.

    Args:
        cells: `(h, K, w)` low-resolution logits.
        rows: Map from `h` cells to the rows of the labels; its weights must not be negative.
        columns: Map from `w` cells to the columns of the labels; likewise.
        out: `(H, W)` contiguous tensor of `label_dtype(K)` that receives the labels.
        tile_bytes: Size of a tile of `chunked`, see `segbench.functional.separable_resampler.tiles`.
        backend: As in `upsample_argmax`.

    Returns:
        `out`.

    Raises:
        ValueError: If the backend is unsuitable.
    """
    if choose_backend(backend, _tiled(cells)) == "native" and _argmax_native(cells, rows, columns, out):
        return out
    # On a GPU asking which cells agree would wait for it again and again.
    if cells.device.type == "cpu" and bool(cells.isfinite().all()):
        return _argmax_of_mixed(cells, rows, columns, out, tile_bytes)
    for tile in tiles(cells, rows, columns, tile_bytes):
        out[tile.rows, tile.columns] = _first_largest(tile.values)
    return out


def label_dtype(num_classes: int) -> torch.dtype:
    """Chooses the type of labels.

    Args:
        num_classes: Number of classes.

    Returns:
        uint8 where that holds every class, otherwise int64.
    """
    return torch.uint8 if num_classes <= 256 else torch.int64


def _first_largest(values: Tensor) -> Tensor:
    # max, not argmax: both give the first of equal classes, and max is several times faster on a CPU
    return values.max(1).indices


def _argmax_of_mixed(
    cells: Tensor, rows: SeparableResampler, columns: SeparableResampler, out: Tensor, tile_bytes: int | None
) -> Tensor:
    """Fills `out`, computing only pixels between cells that do not agree; holds no map of its size."""
    leaders = _first_largest(cells)  # (h, w)
    down, across = _runs(rows), _runs(columns)
    start = down.start.tolist()
    for band, sources in zip(map(slice, start[:-1], start[1:]), down.source, strict=True):
        corners = leaders[sources][:, across.source]  # (taps down, runs across, taps across)
        first = corners[0, :, 0]
        out[band] = first.repeat_interleave(across.lengths)
        mixed = (corners != first[None, :, None]).any(2).any(0)
        pixels = mixed.repeat_interleave(across.lengths).nonzero()[:, 0]
        if not len(pixels):
            continue
        own = torch.arange(len(sources), device=_CPU).expand(band.stop - band.start, -1)
        below = SeparableResampler(own, rows.weight[band])
        beside = SeparableResampler(columns.source[pixels], columns.weight[pixels])
        for tile in tiles(cells[sources], below, beside, tile_bytes):
            out[band][tile.rows, pixels[tile.columns]] = _first_largest(tile.values).to(out.dtype)
    return out


class _Runs(NamedTuple):
    """Outputs of an axis that are made of the same cells, side by side.

    Attributes:
        start: `(runs + 1,)` first output of each, and how many outputs there are.
        taps: `(runs,)` of how many cells.
        source: `(runs, most)` which; the first of them again where there are fewer.
    """

    start: Tensor
    taps: Tensor
    source: Tensor

    @property
    def lengths(self) -> Tensor:
        """Outputs of each."""
        return self.start.diff()


def _runs(axis: SeparableResampler) -> _Runs:
    taps = (axis.weight != 0).sum(1)
    changes = (axis.source[1:] != axis.source[:-1]).any(1) | (taps[1:] != taps[:-1])
    first = torch.cat((taps.new_zeros(1), changes.nonzero()[:, 0] + 1))
    start = torch.cat((first, taps.new_tensor([len(taps)])))
    taps, source = taps[first], axis.source[first]
    there = torch.arange(source.shape[1], device=_CPU) < taps[:, None]
    return _Runs(start, taps, torch.where(there, source, source[:, :1]))


class _Axis(ctypes.Structure):
    """`Axis` of argmax.c."""

    _fields_ = [
        ("start", ctypes.c_void_p),
        ("taps", ctypes.c_void_p),
        ("source", ctypes.c_void_p),
        ("weight", ctypes.c_void_p),
        ("runs", ctypes.c_int64),
        ("most", ctypes.c_int64),
    ]
    tensors: list[Tensor]  # kept alive


def _tiled(cells: Tensor) -> list[str]:
    """Lists the backends that hold no upsampled logits, the fastest first."""
    fits = cells.device.type == "cpu" and cells.dtype != torch.float64
    return ["native", "chunked"] if fits and native.available() else ["chunked"]


def _argmax_native(cells: Tensor, rows: SeparableResampler, columns: SeparableResampler, out: Tensor) -> bool:
    """Fills `out`, unless a logit is infinite or nan: those are left to torch, which knows what they mean."""
    library, pointer, c_int64 = native.library(), native.pointer, ctypes.c_int64
    height, num_classes, width = cells.shape
    cells = cells.float().transpose(1, 2).contiguous()  # (h, w, K)
    leaders = torch.empty(height, width, dtype=torch.int32, device=_CPU)
    down, across = _to_c(rows), _to_c(columns)
    parts = min(down.runs, max(1, min(4 * torch.get_num_threads(), out.numel() // PART_PIXELS)))

    def find_leaders(part: int) -> int:
        piece = slice(height * part // parts, height * (part + 1) // parts)
        count = c_int64((piece.stop - piece.start) * width)
        finite: int = library.find_leaders(
            pointer(cells[piece]), count, c_int64(num_classes), pointer(leaders[piece])
        )
        return finite

    def label_rows(part: int) -> None:
        scratch = torch.empty(num_classes * (2 + down.most * _LANES), dtype=torch.float32, device=_CPU)
        candidates = torch.empty(num_classes + 1, dtype=torch.int32, device=_CPU)
        corners = torch.empty(down.most * across.most, dtype=torch.int64, device=_CPU)
        library.label_rows(
            *(pointer(cells), c_int64(width), c_int64(num_classes), pointer(leaders)),
            *(ctypes.byref(down), ctypes.byref(across)),
            *(c_int64(down.runs * part // parts), c_int64(down.runs * (part + 1) // parts)),
            *(c_int64(out.dtype == torch.int64), pointer(out)),
            *(pointer(scratch), pointer(candidates), pointer(corners)),
        )

    if not all(native.in_parallel(find_leaders, parts)):
        return False
    native.in_parallel(label_rows, parts)
    return True


def _to_c(axis: SeparableResampler) -> _Axis:
    runs = _runs(axis)
    tensors = [tensor.int().contiguous() for tensor in runs] + [axis.weight.float().contiguous()]
    to_c = _Axis(*map(native.pointer, tensors), len(runs.taps), runs.source.shape[1])
    to_c.tensors = tensors
    return to_c

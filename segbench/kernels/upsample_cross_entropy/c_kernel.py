"""Cross-entropy of upsampled logits in C: one pass over the pixels, in the memory of a few rows of cells.

What it does, and why it is fast, stands in `native/upsample_cross_entropy.c`.
"""

import ctypes
import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from segbench.functional.resize import bilinear_taps
from segbench.kernels import native

_LONGEST = 8  # pixels of a run of columns, as in the C file
_LANES = 16  # the most that the C file puts into a vector
_PART_WORK = 4 << 20  # pixels times classes: about a millisecond, so that threads finish together
_CPU = torch.device("cpu")  # named, since a default device may be set


def loss_and_gradient(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    pixel_weight: Tensor | None,
    ignore_index: int,
    smoothing: float,
    clip: float | None,
    padded: tuple[int, int],
    needs_grad: bool,
    deterministic: bool,  # noqa: ARG001 (it always is, whatever the number of threads)
) -> tuple[Tensor, Tensor, Tensor]:
    """Computes sums and gradient; see `upsample_cross_entropy` for the arguments.

    Returns:
        The cost and the weight of all pixels, both scalars, and the gradient `(B, K, h, w)` of the cost or
        nothing; all float32.

    Raises:
        ValueError: If the logits are not on the CPU or of float64, a label is out of range, or memory runs out.
    """
    if logits.device.type != "cpu" or logits.dtype == torch.float64:
        raise ValueError(
            f"the native loss takes up to float32 on the CPU, not {logits.dtype} on {logits.device}; "
            'choose backend="auto"'
        )
    batch, classes, height, width = logits.shape
    logits, target = logits.float().contiguous(), target.contiguous()
    if weight is None:
        weight = logits.new_ones(classes)  # not of the default type, which may be bf16
    weight = weight.float().contiguous()
    if pixel_weight is not None:
        pixel_weight = pixel_weight.float().contiguous()
    rows = _runs(height, padded[0], target.shape[1], None)
    columns = _runs(width, padded[1], target.shape[2], _LONGEST)

    row_runs = math.ceil(len(rows.lower) * _PART_WORK / (target[0].numel() * classes))
    parts = math.ceil(len(rows.lower) / row_runs)  # of an image, whatever the number of threads
    gradient = torch.zeros_like(logits) if needs_grad else None
    pulls = needs_grad and classes > 1  # one class alone is sure whatever its logit
    seam = logits.new_empty(batch, classes, parts, width) if pulls else None
    problem = _Problem(
        *map(native.pointer, (logits, target, weight, pixel_weight, gradient if pulls else None, seam)),
        *(classes, height, width, *target.shape[1:], ignore_index),
        target.itemsize if target.dtype == torch.uint8 else -target.itemsize,
        *(parts, row_runs, smoothing, math.inf if clip is None else clip, rows.to_c(), columns.to_c()),
    )
    sums = (_Sums * (batch * parts))()
    function = native.library().upsample_cross_entropy
    function.argtypes = (ctypes.POINTER(_Problem), ctypes.c_int64, ctypes.POINTER(_Sums))
    if any(native.in_parallel(lambda part: function(problem, part, sums), len(sums))):
        raise ValueError("no memory is left for a few rows of logits; lower the batch size")
    if strange := [part.strange for part in sums if part.is_strange]:
        raise ValueError(
            f"target: label {strange[0]} is neither one of the {classes} classes nor ignore_index; "
            "set ignore_index to it or correct num_classes"
        )
    cost = logits.new_tensor(math.fsum(part.cost for part in sums))
    total = logits.new_tensor(math.fsum(part.weight for part in sums))
    if gradient is None:
        gradient = logits.new_empty(0)
    if seam is not None:
        last = torch.arange(1, parts + 1, device=_CPU).mul_(row_runs).clamp_(max=len(rows.lower)) - 1
        gradient.index_add_(2, rows.upper.long()[last], seam)
    return cost, total, gradient


class _Axis(ctypes.Structure):
    """`struct axis` of the C file."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("lower", "upper", "first", "count", "share")),
        *(("runs", ctypes.c_int64), ("longest", ctypes.c_int64), ("step", ctypes.c_float)),
    ]


class _Problem(ctypes.Structure):
    """`struct problem` of the C file."""

    _fields_ = [
        *(
            (name, ctypes.c_void_p)
            for name in ("logits", "target", "weight", "pixel_weight", "gradient", "seam")
        ),
        *((name, ctypes.c_int64) for name in ("classes", "height", "width", "out_height", "out_width")),
        *((name, ctypes.c_int64) for name in ("ignore_index", "label_bytes", "parts", "row_runs")),
        *(("smoothing", ctypes.c_float), ("clip", ctypes.c_float), ("rows", _Axis), ("columns", _Axis)),
    ]


class _Sums(ctypes.Structure):
    """`struct sums` of the C file."""

    _fields_ = [
        *((name, ctypes.c_double) for name in ("cost", "weight")),
        *((name, ctypes.c_int64) for name in ("strange", "is_strange")),
    ]


class _Runs(NamedTuple):
    """An axis as runs of pixels at equal distances between the same two cells; `(n,)` tensors.

    Attributes:
        lower: Cell before the run, int32.
        upper: Cell behind it; the same beyond the middle of the outermost cells, where nothing changes.
        first: First pixel.
        length: Pixels.
        share: Share of the upper cell in the first pixel, float32.
        step: By which it grows.
    """

    lower: Tensor
    upper: Tensor
    first: Tensor
    length: Tensor
    share: Tensor
    step: float

    def to_c(self) -> _Axis:
        """Names the tables to C; they must outlive it."""
        tables = map(native.pointer, (self.lower, self.upper, self.first, self.length, self.share))
        longest = int(self.length.max())
        # Downwards every pixel is a run, and a step of several cells would overflow where it leads nowhere.
        return _Axis(*tables, len(self.lower), longest, self.step if longest > 1 else 0.0)


@lru_cache(maxsize=64)
def _runs(size: int, out_size: int, visible: int, longest: int | None) -> _Runs:
    """Sorts the first `visible` pixels of an axis of `out_size` into runs.

    Args:
        size: Cells along the axis.
        out_size: Pixels to which they are upsampled.
        visible: Pixels that are wanted.
        longest: Pixels of a run at most; runs are then so ordered that neighbours lie between neighbouring
            cells, and filled up with empty ones for the vectors. None for runs in the order of their pixels.

    Returns:
        Runs in which every pixel occurs once.
    """
    lower, upper, share = (
        values[:visible] for values in bilinear_taps(size, out_size, device=_CPU, dtype=torch.float64)
    )
    pixel = torch.arange(visible, device=_CPU)
    upper = upper.where((pixel + 0.5) * (size / out_size) > 0.5, lower)  # before the first cell nothing changes
    key = 2 * lower + (upper > lower)  # grows from gap to gap
    place = pixel - torch.searchsorted(key, key)
    part = torch.zeros_like(pixel)
    if longest is not None:
        gap = math.ceil(out_size / size)
        length = math.ceil(gap / math.ceil(gap / longest))  # cut evenly, so that few vectors are not full
        part, place = place // length, place % length
    first = pixel[place == 0]
    count = torch.diff(first, append=pixel.new_tensor([visible]))
    if longest is not None:
        order = torch.argsort((upper == lower)[first] * visible + part[first], stable=True)
        first, count = first[order], count[order]
    tables = [lower[first], upper[first], first, count]
    if longest is not None:
        empty = -len(first) % _LANES
        tables = [torch.cat((table, table.new_zeros(empty))) for table in tables]
        share = torch.cat((share[first], share.new_zeros(empty)))
    else:
        share = share[first]
    lower, upper, first, count = (table.int() for table in tables)
    return _Runs(lower, upper, first, count, share.float(), size / out_size)

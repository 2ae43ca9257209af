"""Counts of pairs of true and predicted class, for maps of uint8 on the CPU."""

import ctypes
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from segbench.kernels import native
from segbench.kernels.backends import choose_backend

PART_PIXELS = 1 << 19  # below that a second thread takes longer to wake than it saves


class PairCounts(NamedTuple):
    """What was found in two maps.

    Attributes:
        counts: `(K, K)` int64, rows truth, columns prediction; meaningless if a value is not a class id.
        label: The largest label met before counting stopped.
        target: The largest target met that is not ignored.
    """

    counts: Tensor
    label: int
    target: int


def can_count(labels: Tensor, targets: Tensor, num_classes: int) -> bool:
    """Returns whether `count_pairs` takes these maps; counting with torch takes all others.

    Args:
        labels: Predicted classes.
        targets: True classes.
        num_classes: `K`.

    Returns:
        Whether it does, and the environment does not ask for torch.
    """
    fits = all(values.dtype == torch.uint8 and values.device.type == "cpu" for values in (labels, targets))
    if not fits or num_classes > 256 or not native.available():
        return False
    return choose_backend("auto", ("native", "chunked", "plain")) == "native"


def count_pairs(labels: Tensor, targets: Tensor, num_classes: int, ignore_index: int) -> PairCounts:
    """Counts how often which class was taken for which.

    Args:
        labels: uint8 predicted classes.
        targets: uint8 true classes of the same shape.
        num_classes: `K`, at most 256.
        ignore_index: True class of pixels that do not count.

    Returns:
        The counts and the range of the values, which the caller checks.
    """
    labels, targets = labels.contiguous(), targets.contiguous()
    pixels = labels.numel()
    parts = max(1, min(torch.get_num_threads(), pixels // PART_PIXELS))
    cuts = [pixels * part // parts for part in range(parts + 1)]
    counts = labels.new_empty((parts, num_classes, num_classes), dtype=torch.int64)
    highest = labels.new_empty((parts, 2), dtype=torch.int32)
    native.in_parallel(partial(_count_part, labels, targets, cuts, ignore_index, counts, highest), parts)
    label, target = highest.amax(0).tolist()
    return PairCounts(counts[0] if parts == 1 else counts.sum(0), label, target)


def _count_part(
    labels: Tensor,
    targets: Tensor,
    cuts: list[int],
    ignore_index: int,
    counts: Tensor,
    highest: Tensor,
    part: int,
) -> None:
    piece, num_classes = slice(cuts[part], cuts[part + 1]), counts.shape[-1]
    tables = labels.new_zeros((2, num_classes + 1, num_classes), dtype=torch.int32)
    native.library().count_pairs(
        native.pointer(labels.view(-1)[piece]),
        native.pointer(targets.view(-1)[piece]),
        ctypes.c_int64(cuts[part + 1] - cuts[part]),
        ctypes.c_int64(num_classes),
        ctypes.c_int64(ignore_index),
        native.pointer(tables),
        native.pointer(counts[part]),
        native.pointer(highest[part]),
    )

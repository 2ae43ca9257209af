"""Soft intersection and masses of every class in every image: what region losses are made of."""

from typing import NamedTuple

import torch
from torch import Tensor

from segbench.functional.bands import sum_over_bands
from segbench.functional.labels import split_labels


class Overlap(NamedTuple):
    """Sums over the labelled pixels, each `(B, K)`; `f` is 1 where a class is true, `g` its probability.

    Attributes:
        both: `Σ f·g`.
        true: `Σ f`.
        predicted: `Σ g`.
    """

    both: Tensor
    true: Tensor
    predicted: Tensor


def overlap(logits: Tensor, label: Tensor, ignore_index: int) -> Overlap:
    """Sums the softmax of upsampled logits, which never lie in memory whole.

    Args:
        logits: `(B, K, h, w)`.
        label: `(B, H, W)` integer classes.
        ignore_index: The label of pixels that do not count.

    Returns:
        The sums, at least float32.
    """
    batch, num_classes = logits.shape[:2]
    first = torch.arange(batch, device=logits.device)[:, None, None] * num_classes  # number of (image, class 0)

    def sums(band: Tensor, rows: slice) -> Tensor:
        known, valid = split_labels(label[:, rows], num_classes, ignore_index)  # (B, r, W)
        g = band.softmax(1) * valid[:, None]  # (B, K, r, W)
        g_true = g.gather(1, known[:, None])  # (B, 1, r, W)
        of_class = torch.zeros(2, batch * num_classes, dtype=g.dtype, device=g.device)
        hits = torch.stack((g_true.flatten(), valid.to(g.dtype).flatten()))
        both, true = of_class.index_add(1, (first + known).flatten(), hits)
        return torch.stack((both.view(batch, num_classes), true.view(batch, num_classes), g.sum((2, 3))))

    return Overlap(*sum_over_bands(logits, (label.shape[1], label.shape[2]), sums))

"""Scores from one confusion matrix over the whole split, defined as in MMSegmentation's `mean_iou`.

https://github.com/open-mmlab/mmsegmentation/blob/v0.29.0/mmseg/core/evaluation/metrics.py
"""

import torch
from torch import Tensor
from torchmetrics import Metric

from segbench.kernels.confusion import can_count, count_pairs


def confusion_matrix(labels: Tensor, targets: Tensor, num_classes: int, ignore_index: int = 255) -> Tensor:
    """Counts how often which class was taken for which.

    Args:
        labels: Predicted classes, of any shape and integer type; uint8 is fastest.
        targets: True classes of the same shape, `ignore_index` where a pixel takes no part.
        num_classes: `K`.
        ignore_index: May also be one of the classes, which then takes no part.

    Returns:
        `(K, K)` int64, rows truth, columns prediction.

    Raises:
        ValueError: If shapes or types do not fit or a value is not a class id.
    """
    if labels.shape != targets.shape:
        raise ValueError(f"labels {tuple(labels.shape)} and targets {tuple(targets.shape)} differ in shape")
    for name, values in (("labels", labels), ("targets", targets)):
        if values.is_floating_point():
            raise ValueError(
                f"{name} must be whole numbers, got {values.dtype}; take the argmax of logits first"
            )
    if labels.numel() == 0:
        return torch.zeros(num_classes, num_classes, dtype=torch.int64, device=labels.device)
    if can_count(labels, targets, num_classes):
        found = count_pairs(labels, targets, num_classes, ignore_index)
        _check_range(0, found.label, 0, found.target, num_classes, ignore_index)
        return found.counts
    index = targets.flatten().int()  # int32: faster than int64, and a uint8 255 does not equal -1
    ignored = index == ignore_index
    index = index.masked_fill(ignored, 0)
    _check_classes(labels, index, num_classes, ignore_index)

    bins = num_classes**2 + 1  # a last one for ignored pixels, which is faster than leaving them out
    index = index.mul_(num_classes).add_(labels.flatten()).masked_fill_(ignored, bins - 1)
    if index.is_cuda:  # bincount would wait for the device to learn the largest index
        counts = torch.zeros(bins, dtype=torch.int64, device=index.device)
        counts.scatter_add_(0, index.long(), counts.new_ones(1).expand(len(index)))
    else:
        counts = torch.bincount(index, minlength=bins)
    return counts[:-1].view(num_classes, num_classes)


def scores(confusion: Tensor) -> dict[str, Tensor]:
    """Computes all scores from a confusion matrix.

    A class that occurs neither in truth nor in prediction has no IoU and is left out of the mean; one that is
    predicted but never true has IoU 0 and no accuracy.

    Args:
        confusion: `(K, K)` counts, rows truth, columns prediction.

    Returns:
        Fractions in float64: `miou`, `macc`, `aacc` are scalars, `iou` and `acc` `(K,)`; nan where undefined.
    """
    # float64 is unknown to MPS.
    confusion = (confusion.cpu() if confusion.device.type == "mps" else confusion).double()
    hit, true, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    iou, acc = hit / (true + predicted - hit), hit / true
    return {
        "miou": iou.nanmean(),
        "macc": acc.nanmean(),
        "aacc": hit.sum() / true.sum(),
        "iou": iou,
        "acc": acc,
    }


class SegmentationScores(Metric):
    """Mean IoU, mean accuracy and pixel accuracy of a split, exact over any number of processes.

    Attributes:
        confusion: `(K, K)` int64 counts, rows truth, columns prediction.
    """

    confusion: Tensor
    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        """Starts with no pixel counted.

        Args:
            num_classes: `K`.
            ignore_index: True class of pixels that take no part.
        """
        super().__init__()
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        empty = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self.add_state("confusion", default=empty, dist_reduce_fx="sum")

    def update(self, labels: Tensor, targets: Tensor) -> None:
        """Counts a batch.

        Args:
            labels: `(B, H, W)` predicted classes.
            targets: `(B, H, W)` true classes, `ignore_index` where unlabelled.

        Raises:
            ValueError: If the maps do not fit each other or hold a value that is not a class id.
        """
        self.confusion += confusion_matrix(labels, targets, self.num_classes, self.ignore_index)

    def compute(self) -> dict[str, Tensor]:
        """Computes the scores of everything counted on all processes.

        Returns:
            What `scores` returns.
        """
        return scores(self.confusion)


def _check_classes(labels: Tensor, targets: Tensor, num_classes: int, ignore_index: int) -> None:
    """Refuses values outside `[0, K)`; waits for the device once."""
    limits = [limit.long() for values in (labels, targets) for limit in values.aminmax()]
    low, high, target_low, target_high = torch.stack(limits).tolist()
    _check_range(low, high, target_low, target_high, num_classes, ignore_index)


def _check_range(
    low: int, high: int, target_low: int, target_high: int, num_classes: int, ignore_index: int
) -> None:
    """Refuses extremes outside `[0, K)`."""
    if low < 0 or high >= num_classes:
        wrong = low if low < 0 else high
        raise ValueError(f"labels hold {wrong}, but {num_classes} classes are numbered 0 to {num_classes - 1}")
    if target_low < 0 or target_high >= num_classes:
        wrong = target_low if target_low < 0 else target_high
        raise ValueError(
            f"targets hold {wrong}, neither one of {num_classes} classes nor ignore_index {ignore_index}; "
            "map it to one of them, or correct num_classes"
        )

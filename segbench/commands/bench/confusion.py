"""Counting a confusion matrix, against torchmetrics."""

from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

import torch
from torchmetrics.classification import MulticlassConfusionMatrix

from segbench.commands.bench.maps import smooth_logits
from segbench.commands.bench.section import CASE, COSTS, VARIANT, Clock, Column, Row, Section, compare
from segbench.kernels.upsample_argmax import upsample_argmax
from segbench.metrics.segmentation import confusion_matrix


class Case(NamedTuple):
    """One image of `size`, counted for `num_classes`; the yardstick validates what it gets, or not."""

    num_classes: int
    size: tuple[int, int]
    validate_args: bool

    def __str__(self) -> str:
        """Names it."""
        height, width = self.size
        return f"K={self.num_classes} {height}×{width}, validate_args={self.validate_args}"


CASES = (
    Case(150, (512, 683), False),
    Case(150, (512, 683), True),
    Case(19, (1024, 2048), False),
    Case(19, (1024, 2048), True),
)
EXACT = Column("equal counts", lambda row: row.get("equal"), lambda equal: "yes" if equal else "NO")


def section(cases: Iterable[Case] = CASES) -> Section:
    """Describes the comparison.

    Args:
        cases: Sizes of problem.

    Returns:
        Its section.
    """
    return Section(
        "confusion",
        "Confusion matrix of one image, against torchmetrics' update",
        "MulticlassConfusionMatrix, and with it MulticlassJaccardIndex, validates every batch unless told "
        "otherwise; it gets int64 labels, its cheapest input, and segbench uint8, as its evaluation does.",
        (CASE, VARIANT, *COSTS, EXACT),
        {str(case): partial(measure, case) for case in cases},
    )


def measure(case: Case, clock: Clock) -> list[Row]:
    """Measures one update.

    Args:
        case: The size of problem.
        clock: How to measure.

    Returns:
        One row for each counter.
    """
    grid = (-(-case.size[0] // 16), -(-case.size[1] // 16))
    # Target and prediction differ in some places, as they do; a tenth of the target is unlabelled.
    logits = smooth_logits(case.num_classes, grid)
    noise = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    labels = upsample_argmax(logits + noise, case.size).to(clock.device)
    target = upsample_argmax(logits, case.size).to(clock.device)
    target[:, :, : case.size[1] // 10] = 255
    theirs = MulticlassConfusionMatrix(case.num_classes, ignore_index=255, validate_args=case.validate_args)
    theirs = theirs.to(clock.device)
    wide_labels, wide_target = labels.long(), target.long()
    rows = compare(
        str(case),
        {
            "torchmetrics": lambda: theirs.update(wide_labels, wide_target),
            "segbench": lambda: confusion_matrix(labels, target, case.num_classes),
        },
        clock,
    )
    theirs.reset()
    theirs.update(wide_labels, wide_target)
    equal = torch.equal(theirs.confmat.long(), confusion_matrix(labels, target, case.num_classes))
    for row in rows:
        if "reason" not in row:
            row["equal"] = equal
    return rows

"""Labels of upsampled logits against upsampling all of them first."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from segbench.commands.bench.maps import mixed_share, smooth_logits
from segbench.commands.bench.section import CASE, COSTS, VARIANT, Clock, Column, Row, Section, backends, compare
from segbench.kernels.upsample_argmax import upsample_argmax


class Case(NamedTuple):
    """Logits `(1, K, h, w)` and the size of the labels; `mixed` as in `smooth_logits`, None for noise."""

    num_classes: int
    grid: tuple[int, int]
    size: tuple[int, int]
    mixed: float | None

    def __str__(self) -> str:
        """Names it."""
        (h, w), (height, width) = self.grid, self.size
        kind = "random logits" if self.mixed is None else f"regions {self.mixed:.0%} mixed"
        return f"K={self.num_classes} {h}×{w} to {height}×{width}, {kind}"


CASES = (
    Case(150, (32, 32), (512, 512), 0.2),
    Case(150, (32, 32), (512, 512), 0.45),
    Case(150, (32, 32), (512, 512), None),
    Case(19, (64, 128), (1024, 2048), 0.3),
    Case(19, (64, 128), (1024, 2048), None),
)
AGREEMENT = Column("same labels", lambda row: row.get("agreement"), "{:.4%}".format)


def section(cases: Iterable[Case] = CASES) -> Section:
    """Describes the comparison.

    Args:
        cases: Sizes and kinds of logits.

    Returns:
        Its section.
    """
    return Section(
        "argmax",
        "Labels from logits, against interpolating all logits and taking the argmax",
        "Regions are blurred noise; mixed is the share of cells whose four corners differ in their class. What "
        "it is on real predictions is not known. Labels are compared with the argmax in float64.",
        (CASE, VARIANT, *COSTS, AGREEMENT),
        {str(case): partial(measure, case) for case in cases},
    )


def measure(case: Case, clock: Clock) -> list[Row]:
    """Measures one image.

    Args:
        case: Size and kind of logits.
        clock: How to measure.

    Returns:
        One row for each way to the labels.
    """
    if case.mixed is None:
        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(1, case.num_classes, *case.grid, generator=generator)
    else:
        logits = smooth_logits(case.num_classes, case.grid, mixed=case.mixed)
    share = mixed_share(logits)
    logits = logits.to(clock.device)
    works: dict[str, Callable[[], Tensor]] = {"interpolate, argmax": partial(_interpolate, logits, case.size)}
    works |= {
        backend: partial(upsample_argmax, logits, case.size, backend=backend)  # type: ignore[arg-type]
        for backend in backends(upsample_argmax)
        if backend != "plain"
    }
    rows = compare(str(case), works, clock)
    exact = _interpolate(logits.double(), case.size)
    for row in rows:
        if "reason" not in row:
            row |= {"mixed": share, "agreement": (works[row["variant"]]() == exact).double().mean().item()}
    return rows


def _interpolate(logits: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(logits, size, mode="bilinear", align_corners=False).argmax(1)

"""Merging overlapping windows to labels, against holding and averaging maps of full size."""

from collections.abc import Callable, Iterable
from functools import partial
from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from segbench.commands.bench.argmax import AGREEMENT
from segbench.commands.bench.baseline import merge
from segbench.commands.bench.maps import smooth_logits
from segbench.commands.bench.section import CASE, COSTS, VARIANT, Clock, Row, Section, compare
from segbench.inference import sliding_window
from segbench.inference.sliding_window import WindowPrediction, Windows, anchors

PATCH = 16


class Case(NamedTuple):
    """An image of `size` under square windows, which are predicted at stride 16."""

    name: str
    num_classes: int
    size: tuple[int, int]
    window: int
    stride: int

    def corners(self) -> list[tuple[int, int]]:
        """Places the windows, as (top, left), row by row."""
        tops, lefts = (anchors(side, self.window, self.stride) for side in self.size)
        return list(product(tops, lefts))

    def __str__(self) -> str:
        """Names it."""
        size = f"{self.size[0]}×{self.size[1]}"
        return f"{self.name} K={self.num_classes} {size}, {len(self.corners())} windows of {self.window}²"


# Windows and strides of Segmenter.
CASES = (
    Case("Cityscapes", 19, (1024, 2048), 768, 512),
    Case("ADE20K", 150, (512, 683), 512, 512),
)


def section(cases: Iterable[Case] = CASES) -> Section:
    """Describes the comparison.

    Args:
        cases: Images and windows.

    Returns:
        Its section.
    """
    return Section(
        "merging",
        "Overlapping windows to labels, against holding and averaging maps of full size",
        "From the low-resolution logits of all windows: blurred noise, 20 % of the cells mixed. The full-size "
        "way is Segmenter's: upsample every window, sum, divide, resize, softmax, argmax. Labels are compared "
        "with its own.",
        (CASE, VARIANT, *COSTS, AGREEMENT),
        {str(case): partial(measure, case) for case in cases},
    )


def measure(case: Case, clock: Clock) -> list[Row]:
    """Measures one image, without the model.

    Args:
        case: Image and windows.
        clock: How to measure.

    Returns:
        One row for each way to the labels.
    """
    predictions = _predictions(case).to(clock.device)
    image = torch.zeros(1, 3, *case.size, dtype=torch.uint8, device=clock.device)
    works: dict[str, Callable[[], Tensor]] = {
        "full-size maps": partial(_full_size, case, predictions),
        "segbench": partial(_segment, case, image, predictions),
    }
    rows = compare(str(case), works, clock)
    theirs = works["full-size maps"]()
    for row in rows:
        if "reason" not in row:
            row["agreement"] = (works[row["variant"]]() == theirs).double().mean().item()
    return rows


def _predictions(case: Case) -> Tensor:
    """Draws one scene and cuts windows `(n, K, h, w)` out of it, which agree but for some noise."""
    cells = case.window // PATCH
    scene = smooth_logits(case.num_classes, (-(-case.size[0] // PATCH), -(-case.size[1] // PATCH)))
    cut = [
        scene[0, :, y // PATCH : y // PATCH + cells, x // PATCH : x // PATCH + cells] for y, x in case.corners()
    ]
    generator = torch.Generator().manual_seed(1)
    return torch.stack([window + 0.3 * torch.randn(window.shape, generator=generator) for window in cut])


def _full_size(case: Case, predictions: Tensor) -> Tensor:
    size = (case.window, case.window)
    windows = torch.cat(
        [F.interpolate(one[None], size, mode="bilinear", align_corners=False) for one in predictions]
    )
    return merge(windows, case.corners(), case.size)[None]


def _segment(case: Case, image: Tensor, predictions: Tensor) -> Tensor:
    waiting = iter(predictions)

    def forward(crops: Tensor) -> WindowPrediction:
        return WindowPrediction(torch.stack([next(waiting) for _ in crops]), (case.window, case.window))

    return sliding_window.segment(image, forward, Windows(case.window, case.stride))

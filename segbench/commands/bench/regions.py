"""The region post-processing: C beside what needs no compiler, false boundaries, growth with the image."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray

from segbench.commands.bench.maps import smooth_logits
from segbench.commands.bench.section import (
    CASE,
    COSTS,
    VARIANT,
    Clock,
    Column,
    Row,
    Section,
    compare,
    significant,
)
from segbench.kernels import native
from segbench.postprocess.dust_fill import dust_fill
from segbench.postprocess.morphology import clean_boundary
from segbench.postprocess.segment import segment

Backend = Literal["plain", "native"]
CELL = 16  # pixels of the blurred noise
MOST_PLAIN = 2**19  # pixels for which the loop in Python is waited for


class Case(NamedTuple):
    """An image of `size`, a share of whose pixels is taken for boundary beside those that are."""

    step: Literal["clean-up", "SEGMENT", "DUST_FILL", "whole"]
    num_classes: int
    size: tuple[int, int]
    false_share: float

    def __str__(self) -> str:
        """Names it."""
        size = f"{self.size[0]}×{self.size[1]}"
        return f"{self.step} K={self.num_classes} {size}, {self.false_share:.0%} false"


_SCENES = (
    *((24, (512, 512), share) for share in (0.05, 0.2, 0.35)),
    *((24, (side, side), 0.2) for side in (256, 1024)),
    (19, (2048, 1024), 0.2),
)
CASES = (
    Case("clean-up", 24, (512, 512), 0.2),
    *(Case("SEGMENT", *scene) for scene in _SCENES),
    *(Case("DUST_FILL", *scene) for scene in _SCENES),
    *(Case("whole", *scene) for scene in _SCENES),
)
PER_PIXEL = Column("ns per pixel", lambda row: row.get("ns_per_pixel"), significant)
SAME = Column("same result", lambda row: row.get("same"))


def section(cases: Iterable[Case] = CASES) -> Section:
    """Describes the comparison.

    Args:
        cases: Steps and images.

    Returns:
        Its section.
    """
    return Section(
        "regions",
        "Region post-processing of one image on one core, C beside Python",
        "Probabilities are blurred noise; boundaries are the edges of its argmax and random pixels, not "
        "cleaned up. `plain` is OpenCV for SEGMENT and for the clean-up; for DUST_FILL it is a loop over the "
        "pixels outside of regions. `whole` is all three in a row, with the published parameters.",
        # Without peaks: they are counted by torch's allocator, which NumPy and C do not use.
        (CASE, VARIANT, *COSTS[:4], PER_PIXEL, SAME),
        {str(case): partial(measure, case) for case in cases},
    )


def measure(case: Case, clock: Clock) -> list[Row]:
    """Measures one step on one image.

    Args:
        case: Step and image.
        clock: How to measure; the work is the CPU's in any case.

    Returns:
        One row for each way.
    """
    probabilities, boundary = scene(case.num_classes, case.size, case.false_share)
    works: dict[str, Callable[[], NDArray[Any]] | str] = {}
    if case.step == "clean-up":
        works["plain"] = partial(clean_boundary, boundary.astype(np.float32))
    elif case.step == "SEGMENT":
        works = {"plain": partial(segment, boundary, backend="plain"), "native": partial(segment, boundary)}
    else:
        fill = partial(dust_fill, probabilities, segment(boundary))
        if case.step == "whole":
            fill = partial(_whole, probabilities, boundary.astype(np.float32))
        slow = boundary.size > MOST_PLAIN
        plain = "takes seconds on so many pixels" if slow else partial(fill, backend="plain")
        works = {"plain": plain, "native": fill}
    if "native" in works and not native.available():
        works["native"] = "no C compiler"
    rows = compare(str(case), works, clock)
    results = {name: work() for name, work in works.items() if callable(work)}
    for row in rows:
        if "reason" not in row:
            row["ns_per_pixel"] = 1e9 * row["median_s"] / boundary.size
            if "plain" in results:
                row["same"] = bool(np.array_equal(results[row["variant"]], results["plain"]))
    return rows


def _whole(
    probabilities: NDArray[np.float32], boundary: NDArray[np.float32], backend: Backend = "native"
) -> NDArray[np.int64]:
    """Does what `segbench.postprocess.regions.Regions` does, by one backend."""
    regions = segment(clean_boundary(boundary), backend=backend)
    return dust_fill(probabilities, regions, backend=backend)


def scene(
    num_classes: int, size: tuple[int, int], false_share: float
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Draws what a model might predict.

    Args:
        num_classes: `K`.
        size: `(H, W)`.
        false_share: Share of pixels that are marked as boundary at random.

    Returns:
        Probabilities `(K, H, W)` and boundary `(H, W)`.
    """
    logits = smooth_logits(num_classes, (-(-size[0] // CELL), -(-size[1] // CELL)))
    full = F.interpolate(logits, size, mode="bilinear", align_corners=False)
    probabilities = full.softmax(1)[0].numpy()
    labels = probabilities.argmax(0)
    boundary = np.random.default_rng(0).random(size) < false_share
    across, down = labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1]
    boundary[:, 1:] |= across
    boundary[:, :-1] |= across
    boundary[1:] |= down
    boundary[:-1] |= down
    return probabilities, boundary

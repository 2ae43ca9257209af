"""The attention U-Net article's post-processing as a whole: walls, regions, and one label for each region.

Article and code: see `segbench.postprocess.dust_fill`. Defaults are those of its published figures.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segbench.postprocess.base import PostProcessor
from segbench.postprocess.dust_fill import check_options, dust_fill
from segbench.postprocess.morphology import clean_boundary
from segbench.postprocess.segment import segment


class RegionSteps(NamedTuple):
    """What the steps made of one image.

    Attributes:
        walls: `(H, W)` bool.
        regions: `(H, W)` int32 ids, −1 where none.
        labels: `(H, W)` classes.
    """

    walls: NDArray[np.bool_]
    regions: NDArray[np.int32]
    labels: NDArray[np.int64]


class Regions(PostProcessor):
    """Labels whole regions between boundaries instead of single pixels."""

    def __init__(
        self,
        threshold: float = 0.1,
        expand: int = 5,
        min_size: int = 11,
        promote: float | list[float] = 0.5,
        join: float = 0.05,
        impatience: float = 1.5,
    ) -> None:
        """Keeps the parameters; all may be changed between calls.

        Args:
            threshold: Boundary probability above which a pixel is wall.
            expand: Radius of the closing of gaps between walls, in pixels; 0 closes none.
            min_size: Pixels that a region needs.
            promote: Probability from which a pixel outside of regions keeps its class; one, or one per class.
            join: Distance of probabilities, 0 to 2, below which a pixel joins a neighbouring region.
            impatience: Factor of `join` each time a pixel was turned away.

        Raises:
            ValueError: If a number is out of range.
        """
        if not 0 <= threshold <= 1 or expand < 0 or min_size < 1:
            raise ValueError(
                "Regions needs 0 ≤ threshold ≤ 1, expand ≥ 0 and min_size ≥ 1; got"
                f" {threshold}, {expand} and {min_size}"
            )
        check_options(promote, join, impatience)
        self.threshold = threshold
        self.expand = expand
        self.min_size = min_size
        self.promote: float | Sequence[float] = promote
        self.join = join
        self.impatience = impatience

    def check(self, num_classes: int) -> None:
        """Raises a ValueError if `promote` is a list of another length than the classes."""
        check_options(self.promote, self.join, self.impatience, num_classes)

    def __call__(self, probabilities: NDArray[np.float32], boundary: NDArray[np.float32]) -> NDArray[np.int64]:
        """Returns labels `(H, W)`, one class for each region."""
        return self.steps(probabilities, boundary).labels

    def steps(self, probabilities: NDArray[np.float32], boundary: NDArray[np.float32]) -> RegionSteps:
        """Labels every pixel and keeps what led to it.

        Args:
            probabilities: As in the contract.
            boundary: As in the contract.

        Returns:
            Walls, regions and labels.

        Raises:
            ValueError: As in the contract.
        """
        if probabilities.shape[1:] != boundary.shape:
            raise ValueError(
                f"probabilities must be (K, H, W), boundary (H, W); got {probabilities.shape}, {boundary.shape}"
            )
        walls = clean_boundary(boundary, self.threshold, self.expand)
        regions = segment(walls, self.min_size)
        labels = dust_fill(
            probabilities, regions, promote=self.promote, join=self.join, impatience=self.impatience
        )
        return RegionSteps(walls, regions, labels)

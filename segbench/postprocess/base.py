"""The contract of a post-processor."""

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray


class PostProcessor(ABC):
    """Decides on the labels of one image from what was predicted for it; works on the CPU."""

    @abstractmethod
    def __call__(self, probabilities: NDArray[np.float32], boundary: NDArray[np.float32]) -> NDArray[np.int64]:
        """Labels every pixel.

        Args:
            probabilities: `(K, H, W)` of each class, at least 0.
            boundary: `(H, W)` probability in [0, 1] that a pixel lies between two labels.

        Returns:
            `(H, W)` classes.

        Raises:
            ValueError: If shapes do not fit or a probability is not a number.
        """

    def check(self, num_classes: int) -> None:  # noqa: B027 (most have nothing to refuse)
        """Refuses options that do not suit so many classes, before anything is trained or labelled.

        Args:
            num_classes: `K`.

        Raises:
            ValueError: If one does not.
        """

"""One pass of the encoder for several evaluations of the same images."""

from collections.abc import Callable

from torch import Tensor

from segbench.types import Features


class EncodedOnce:
    """Stands in for an encoder: keeps the features of the first pass, and gives them out in the same order.

    Callers cut images into the same windows, scales and mirrored views in every pass.
    """

    def __init__(self, encode: Callable[[Tensor], Features]) -> None:
        """Starts the first pass.

        Args:
            encode: The encoder.
        """
        self._encode = encode
        self._kept: list[Features] = []
        self._next: int | None = None

    def again(self) -> None:
        """Starts the next pass, which is to ask for what the first one asked for."""
        self._next = 0

    def __call__(self, image: Tensor) -> Features:
        """Encodes, or gives out what was encoded at this place of the first pass.

        Args:
            image: As for the encoder.

        Returns:
            Its features.
        """
        if self._next is None:
            self._kept.append(self._encode(image))
            return self._kept[-1]
        self._next += 1
        return self._kept[self._next - 1]

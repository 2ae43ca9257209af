"""The contract of an encoder."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from torch import Tensor, nn

from segbench.types import FeatureInfo, Features

_weights_follow: ContextVar[bool] = ContextVar("skip_pretrained_weights", default=False)


@contextmanager
def skip_pretrained_weights() -> Iterator[None]:
    """Says that a checkpoint will fill the encoders built inside: none need fetch pretrained weights first."""
    token = _weights_follow.set(True)
    try:
        yield
    finally:
        _weights_follow.reset(token)


def needs_pretrained_weights() -> bool:
    """Tells an encoder whether to load the pretrained weights it is configured with.

    Returns:
        False inside `skip_pretrained_weights()`.
    """
    return not _weights_follow.get()


class DepthGroup(NamedTuple):
    """Parameters of one depth, for layer-wise learning rates.

    Attributes:
        depth: 0 for the stem, rising towards the output.
        parameters: `(name, parameter)` pairs, names as in the encoder's own `named_parameters()`.
    """

    depth: int
    parameters: list[tuple[str, nn.Parameter]]


class Encoder(nn.Module, ABC):
    """Images in, `Features` out. Built as `Encoder(img_size, …)`.

    An encoder owns pixel mean and standard deviation, so that images travel as uint8.

    Attributes:
        info: What the maps look like: a map of stride `s` has `⌈H'/s⌉ × ⌈W'/s⌉` cells, where `H'×W'` is the
            size of the padded image.
        fixed_size: Whether only images of `img_size` can be encoded. Evaluation then slides a window of that
            size unless told otherwise.
        frozen: Whether the weights stay as they are: no gradients, evaluation mode even in training.
    """

    info: FeatureInfo
    fixed_size: bool = False
    frozen: bool = False

    @abstractmethod
    def forward(self, image: Tensor) -> Features:
        """Encodes a batch of any size.

        Args:
            image: `(B, 3, H, W)` RGB; uint8, or float on the same 0..255 scale.

        Returns:
            The padded normalised image and the feature maps.

        Raises:
            ValueError: If the size is fixed and the image has another.
        """

    @abstractmethod
    def normalize(self, image: Tensor) -> Tensor:
        """Makes of a batch what `forward` encodes, and hands on as `Features.image`.

        Args:
            image: As for `forward`.

        Returns:
            `(B, 3, H', W')`, normalised, and padded at the bottom and right to whole cells.
        """

    @abstractmethod
    def depth_groups(self) -> list[DepthGroup]:
        """Sorts every parameter by depth, stem first.

        Returns:
            One group for each depth; together they hold every parameter once.
        """

    def no_weight_decay(self) -> set[str]:
        """Names the parameters that weight decay leaves alone, beside biases and norms.

        Returns:
            Names as in the encoder's own `named_parameters()`.
        """
        return set()

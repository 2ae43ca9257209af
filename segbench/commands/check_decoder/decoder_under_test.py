"""What a check is given: a decoder that can be rebuilt, and real encoders in front of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from segbench.decoders.base import Decoder
from segbench.encoders.base import Encoder
from segbench.types import FeatureInfo, Features, Prediction

DecoderFactory = Callable[[FeatureInfo, int], Decoder]

NUM_CLASSES = 5
IMG_SIZE = (64, 64)


class Fault(Exception):  # noqa: N818 (it says what is wrong with a decoder, not that a check went wrong)
    """What is wrong with the decoder and how to fix it, in one line."""


class Skip(Exception):  # noqa: N818
    """Why a check does not apply, or cannot run here."""


class Bed(NamedTuple):
    """An encoder of random weights and the necks behind it.

    Attributes:
        patch_size: Of the encoder.
        encoder: In evaluation mode.
        necks: Likewise.
        info: Of what the decoder gets.
        arrangement: In words, what stands in front of the decoder.
    """

    patch_size: int
    encoder: Encoder
    necks: nn.Sequential
    info: FeatureInfo
    arrangement: str

    def features(self, size: tuple[int, int] = IMG_SIZE, batch: int = 2) -> Features:
        """Encodes noise.

        Args:
            size: Height and width of the images.
            batch: Number of images.

        Returns:
            Features without history.
        """
        generator = torch.Generator().manual_seed(0)
        return self.encode(torch.randint(0, 256, (batch, 3, *size), generator=generator).float())

    @torch.no_grad()
    def encode(self, image: Tensor) -> Features:
        """Runs encoder and necks.

        Args:
            image: `(B, 3, H, W)` in 0..255.

        Returns:
            Features without history.
        """
        features: Features = self.necks(self.encoder(image))
        return features


@dataclass(frozen=True)
class Subject:
    """A decoder under examination.

    Attributes:
        factory: Builds it.
        beds: By patch size, the bed that it accepts, or its own words why it accepts none.
        seed: Of its random weights.
        backend: Of `torch.compile`.
    """

    factory: DecoderFactory
    beds: dict[int, Bed | str]
    seed: int = 0
    backend: str = "aot_eager"

    @property
    def accepted(self) -> list[Bed]:
        """Lists the beds that the decoder takes, the usual one first."""
        return [bed for bed in self.beds.values() if isinstance(bed, Bed)]

    @property
    def bed(self) -> Bed:
        """Gives the bed for the checks that need but one."""
        return self.accepted[0]

    def build(self, bed: Bed | None = None, seed: int | None = None) -> Decoder:
        """Builds another decoder.

        Args:
            bed: What stands in front of it; the usual one by default.
            seed: Of its weights; the subject's own by default.

        Returns:
            In training mode.
        """
        torch.manual_seed(self.seed if seed is None else seed)
        return self.factory((bed or self.bed).info, NUM_CLASSES)


Check = Callable[[Subject], str | None]


def outputs(prediction: Prediction) -> dict[str, Tensor]:
    """Names what a decoder gave.

    Args:
        prediction: Of the decoder.

    Returns:
        The fields that are not None.
    """
    return {name: value for name, value in prediction._asdict().items() if value is not None}


def objective(given: dict[str, Tensor]) -> Tensor:
    """Sums outputs with fixed random weights, so that every path to a parameter counts.

    Args:
        given: Outputs of a decoder.

    Returns:
        A scalar that carries gradients.
    """
    generator = torch.Generator().manual_seed(1)
    return torch.stack(
        [(v.float() * torch.randn(v.shape, generator=generator)).sum() for v in given.values()]
    ).sum()


@torch.no_grad()
def slack(decoder: Decoder, features: Features) -> float:
    """Measures by how much outputs may differ where only rounding does.

    Some decoders make much of little. So inputs are changed in the last digits, and ten times what comes of it
    is allowed.

    Args:
        decoder: In evaluation mode.
        features: On which outputs are compared.

    Returns:
        An absolute difference.
    """
    generator = torch.Generator().manual_seed(2)
    image, *maps = (
        tensor * (1 + 1e-6 * torch.randn(tensor.shape, generator=generator))
        for tensor in (features.image, *features.maps)
    )
    one, other = outputs(decoder(features)), outputs(decoder(Features(image, tuple(maps))))
    largest = max(value.abs().max().item() for value in one.values())
    return max(1e-4 * largest, *(10 * (one[name] - other[name]).abs().max().item() for name in one))


def format_error(error: BaseException) -> str:
    """Reduces an exception to its first telling line.

    Args:
        error: Any.

    Returns:
        At most 200 characters.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__

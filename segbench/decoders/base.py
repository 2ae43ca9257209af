"""The contract of a decoder."""

from abc import ABC, abstractmethod

from torch import nn

from segbench.types import Features, Prediction


class Decoder(nn.Module, ABC):
    """`Features` in, `Prediction` out. Built as `Decoder(info, num_classes, …)`.

    A decoder refuses an `info` it cannot work with by a `ValueError` at construction, and never upsamples to
    pixels: who needs pixels upsamples.
    """

    @abstractmethod
    def forward(self, features: Features) -> Prediction:
        """Predicts classes at the decoder's own stride.

        Args:
            features: As the constructor's `info` describes them.

        Returns:
            Logits `(B, K, h, w)`, and boundary or colours where the decoder has them; the same in training
            and evaluation.
        """

    def no_weight_decay(self) -> set[str]:
        """Names the parameters that weight decay leaves alone, beside biases and norms.

        Returns:
            Names as in `named_parameters()`.
        """
        return set()

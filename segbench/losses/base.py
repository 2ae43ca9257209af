"""The contract of a loss."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from segbench.types import Prediction


class Loss(nn.Module, ABC):
    """A `Prediction` and labels in, one scalar out. Built as `Loss(num_classes, ignore_index, weight=1.0, …)`.

    Attributes:
        weight: The factor with which the task adds this loss to the others.
        name: The name under which it is logged, as in `train/<name>`.
    """

    weight: float
    name: str

    @abstractmethod
    def forward(self, prediction: Prediction, label: Tensor) -> Tensor:
        """Computes the unweighted loss.

        Args:
            prediction: What the decoder returned.
            label: `(B, H, W)` integer training ids at the size to which the prediction is upsampled.

        Returns:
            A scalar that carries gradients; 0, not nan, when every pixel is ignored.
        """

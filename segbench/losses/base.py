"""The contract of a loss."""

import math
from abc import ABC, abstractmethod

import torch
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
        """Computes the unweighted loss of the batch, over all processes that have a share of it.

        Sums that are divided by one another go through `segbench.utils.distributed.all_reduce_sum` first, so
        that several processes train as one does with the whole batch.

        Args:
            prediction: What the decoder returned.
            label: `(B, H, W)` integer training ids at the size to which the prediction is upsampled.

        Returns:
            A scalar that carries gradients; 0, not nan, when every pixel is ignored.
        """


def register_class_weights(loss: Loss, class_weights: list[float] | None, num_classes: int) -> None:
    """Gives a loss its buffer `class_weights`, or refuses weights with which no mean can be formed.

    The buffer is not persistent: weights are configuration, and a checkpoint must load where they were changed.

    Args:
        loss: Gets the buffer, `(K,)` or None.
        class_weights: As configured.
        num_classes: `K`.

    Raises:
        ValueError: If there are too many or too few, or one is negative or not finite.
    """
    values = None
    if class_weights is not None:
        if len(class_weights) != num_classes:
            raise ValueError(f"class_weights: {len(class_weights)} given for {num_classes} classes")
        if wrong := [value for value in class_weights if not 0 <= value < math.inf]:
            raise ValueError(
                f"class_weights: {wrong[0]} is negative or no number; give 0 or more for each class"
            )
        values = torch.tensor(class_weights)
    loss.register_buffer("class_weights", values, persistent=False)

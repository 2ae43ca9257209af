"""Soft Dice loss over the classes that occur.

Paper: https://arxiv.org/abs/1606.04797 (V-Net), which knows two classes and squares the probabilities in the
denominator. Here they are not squared, sums run over the whole batch, so that small classes are less noisy, and
classes without a pixel in the batch are left out: what they are given is missing from the others already.
"""

from torch import Tensor

from segbench.functional.overlap import overlap
from segbench.losses.base import Loss
from segbench.types import Prediction
from segbench.utils.distributed import all_reduce_sum


class Dice(Loss):
    """`1 − (2·I_j + ε) / (F_j + G_j + ε)`, a mean over the classes in the labels of the batch."""

    def __init__(self, num_classes: int, ignore_index: int, weight: float = 1.0, epsilon: float = 1.0) -> None:
        """Checks the options.

        Args:
            num_classes: `K`.
            ignore_index: Label that takes no part.
            weight: Factor of this loss among the others.
            epsilon: Added above and below, in pixels; calms classes of a few pixels.

        Raises:
            ValueError: If epsilon is negative.
        """
        super().__init__()
        if not epsilon >= 0:
            raise ValueError(f"epsilon must not be negative; got {epsilon}")
        self.name = "dice"
        self.weight = weight
        self.ignore_index = ignore_index
        self.epsilon = epsilon

    def forward(self, prediction: Prediction, label: Tensor) -> Tensor:
        """Returns the mean Dice loss over the classes that occur."""
        sums = overlap(prediction.logits, label, self.ignore_index)
        both, true, predicted = all_reduce_sum(*(part.sum(0) for part in sums))  # (K,) each
        occurs = true > 0
        missed = 1 - (2 * both + self.epsilon) / (true + predicted + self.epsilon).where(occurs, 1.0)
        return missed.where(occurs, 0.0).sum() / occurs.sum().clamp(min=1)

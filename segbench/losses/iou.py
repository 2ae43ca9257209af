"""Soft intersection over union, every label weighted by its mass in the picture.

Source: the attention U-Net article, §4.1; its code (https://github.com/dmitri-chouchkov/fashion-segmentation)
has no such loss. The article sums over labels; here their weights add up to 1, and images are averaged.
"""

import torch
from torch import Tensor

from segbench.functional.overlap import overlap
from segbench.losses.base import Loss
from segbench.types import Prediction
from segbench.utils.distributed import all_reduce_sum


class SoftIoU(Loss):
    """`Σ_j m_j·(1 − A_j)` with `A_j = (I_j + ε) / (U_j + ε)`, a mean over the images that have labels."""

    def __init__(
        self,
        num_classes: int,
        ignore_index: int,
        weight: float = 1.0,
        mass_weighting: bool = True,
        epsilon: float = 1.0,  # pixels, as where the author's evaluation smooths its scores
    ) -> None:
        """Checks the options.

        Args:
            num_classes: `K`.
            ignore_index: Label that takes no part.
            weight: Factor of this loss among the others.
            mass_weighting: Weight each label by its share of the labelled pixels; an absent one then costs
                nothing by itself. false weights all `K` alike, which teaches never to suggest a rare one.
            epsilon: Added to intersection and union, in pixels.

        Raises:
            ValueError: If epsilon is not positive.
        """
        super().__init__()
        if not epsilon > 0:
            raise ValueError(f"epsilon must be positive, since labels may be absent; got {epsilon}")
        self.name = "soft_iou"
        self.weight = weight
        self.ignore_index = ignore_index
        self.mass_weighting = mass_weighting
        self.epsilon = epsilon

    def forward(self, prediction: Prediction, label: Tensor) -> Tensor:
        """Returns the mean over images that have labels of `1 − IoU`, classes weighted by their area."""
        both, true, predicted = overlap(prediction.logits, label, self.ignore_index)  # (B, K) each
        union = true + predicted - both
        missed = 1 - (both + self.epsilon) / (union + self.epsilon)
        labelled = true.sum(1, keepdim=True).detach()  # (B, 1)
        mass = (
            true.detach() / labelled.clamp(min=1)
            if self.mass_weighting
            else torch.ones_like(true) / true.shape[1]
        )
        total, images = all_reduce_sum((mass * missed).sum(), (labelled > 0).sum())
        return total / images.clamp(min=1)

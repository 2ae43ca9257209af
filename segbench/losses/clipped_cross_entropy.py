"""Cross-entropy with a ceiling, and with more weight on the pixels between two labels.

Source: the attention U-Net article, §4.2 and §4.3. Code: https://github.com/dmitri-chouchkov/fashion-segmentation,
which has the class weights only. The article gives neither the ceiling nor the factor of boundary pixels. It
does not divide by the sum of weights; the code does, and so does this file.
"""

import math

import torch
from torch import Tensor

from segbench.functional.boundary import boundary_target
from segbench.kernels.upsample_cross_entropy import upsample_cross_entropy
from segbench.losses.base import Loss, register_class_weights
from segbench.types import Prediction


class ClippedCrossEntropy(Loss):
    """`Σ w·min(−ln p, clip) / Σ w` over valid pixels.

    A pixel beyond the ceiling still counts but pulls no longer: one hopeless label cannot outweigh the image.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        num_classes: int,
        ignore_index: int,
        weight: float = 1.0,
        class_weights: list[float] | None = None,
        clip: float = -math.log(1e-7),  # the floor that the author's code sets to the boundary's probabilities
        boundary_weight: float = 1.0,
    ) -> None:
        """Checks the options.

        Args:
            num_classes: `K`.
            ignore_index: Label that takes no part.
            weight: Factor of this loss among the others.
            class_weights: One weight for each class; pixels count with the weight of their class.
            clip: The most that one pixel can cost before weighting.
            boundary_weight: Further factor of pixels whose label differs from a neighbour's. Labels have to be
                exact for a large one.

        Raises:
            ValueError: If weights are not one for each class, or ceiling or factor are out of range.
        """
        super().__init__()
        register_class_weights(self, class_weights, num_classes)
        if not clip > 0:
            raise ValueError(f"clip must be positive, or nothing is learned; got {clip}")
        if not boundary_weight >= 0:
            raise ValueError(f"boundary_weight must not be negative; got {boundary_weight}")
        self.name = "clipped_cross_entropy"
        self.weight = weight
        self.ignore_index = ignore_index
        self.clip = clip
        self.boundary_weight = boundary_weight

    def forward(self, prediction: Prediction, label: Tensor) -> Tensor:
        """Returns the weighted mean over valid pixels."""
        pixel_weight = None
        if self.boundary_weight != 1:
            between = boundary_target(label, self.ignore_index)[0]
            pixel_weight = torch.where(between, self.boundary_weight, 1.0)  # (B, H, W)
        return upsample_cross_entropy(
            prediction.logits,
            label,
            ignore_index=self.ignore_index,
            weight=self.class_weights,
            clip=self.clip,
            pixel_weight=pixel_weight,
            whole_batch=True,
        )

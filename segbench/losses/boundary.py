"""Binary cross-entropy of a boundary head against the two-cell-thick boundary of the labels.

Source: the attention U-Net article, §5.2. Code: https://github.com/dmitri-chouchkov/fashion-segmentation.
There, probabilities are clamped to [1e-7, 1 − 1e-7], and the gradient fades beyond; here the same function is
computed from logits, exact and with its whole gradient everywhere. Boundary pixels count 5 times
as in the code; the article says 20.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from segbench.functional.bands import sum_over_bands
from segbench.functional.boundary import boundary_target
from segbench.losses.base import Loss
from segbench.types import Prediction
from segbench.utils.distributed import all_reduce_sum


class BoundaryBCE(Loss):
    """Mean over the pixels whose target is defined, boundary pixels weighted up but not counted more often."""

    def __init__(
        self, num_classes: int, ignore_index: int, weight: float = 1.0, positive_weight: float = 5.0
    ) -> None:
        """Checks the options.

        Args:
            num_classes: `K`; unused here.
            ignore_index: Label that takes no part, nor do its neighbours.
            weight: Factor of this loss among the others.
            positive_weight: Factor of boundary pixels.

        Raises:
            ValueError: If the factor is not positive.
        """
        super().__init__()
        if not 0 < positive_weight < math.inf:
            raise ValueError(f"positive_weight must be positive and finite; got {positive_weight}")
        self.name = "boundary_bce"
        self.weight = weight
        self.ignore_index = ignore_index
        self.positive_weight = positive_weight

    def forward(self, prediction: Prediction, label: Tensor) -> Tensor:
        """Returns the mean binary cross-entropy over pixels with a target.

        Raises:
            ValueError: If the decoder predicts no boundary, or more than one channel of it.
        """
        if prediction.boundary is None:
            raise ValueError(
                "losses: BoundaryBCE needs a decoder with a boundary head, such as "
                "segbench.decoders.attention_unet.AttentionUNet with boundary: true; or leave this loss out"
            )
        if prediction.boundary.shape[1] != 1:
            raise ValueError(
                f"losses: BoundaryBCE needs one channel of boundary logits, not {prediction.boundary.shape[1]}"
            )
        target, defined = boundary_target(label, self.ignore_index)  # (B, H, W)

        def cost(band: Tensor, rows: slice) -> Tensor:
            logits, truth = band[:, 0], target[:, rows]  # (B, r, W)
            # −ln σ(z) = softplus(−z) where boundary, −ln(1 − σ(z)) = softplus(z) elsewhere
            cost = torch.where(truth, self.positive_weight * F.softplus(-logits), F.softplus(logits))
            return (cost * defined[:, rows]).sum()

        total = sum_over_bands(prediction.boundary, (label.shape[1], label.shape[2]), cost)
        total, pixels = all_reduce_sum(total, defined.sum())
        return total / pixels.clamp(min=1)

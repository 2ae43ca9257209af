"""Mean absolute error of colours: the loss of models that paint labels instead of classifying pixels.

Source: the report "Vision Transformers for Segmentation" (no published paper), which found it steadier than the
squared error. Unlike there, pixels without a class take no part.
"""

import torch.nn.functional as F
from torch import Tensor

from segbench.functional.labels import split_labels
from segbench.losses.base import Loss
from segbench.types import Prediction
from segbench.utils.distributed import all_reduce_sum


class MeanAbsoluteColor(Loss):
    """Mean over labelled pixels and three channels of `|c − palette[label]|`, colours in 0..1.

    Attributes:
        palette: `(K, 3)` in 0..1. `ColorTask` fills it in, so that YAML need not repeat the dataset's colours.
    """

    palette: Tensor | None

    def __init__(self, num_classes: int, ignore_index: int, weight: float = 1.0) -> None:
        """Sets up the loss; its palette is filled in later.

        Args:
            num_classes: `K`.
            ignore_index: Label that takes no part.
            weight: Factor of this loss among the others.
        """
        super().__init__()
        self.name = "color"
        self.weight = weight
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.register_buffer("palette", None, persistent=False)

    def forward(self, prediction: Prediction, label: Tensor) -> Tensor:
        """Returns the mean absolute error over labelled pixels and channels.

        Raises:
            ValueError: If the model predicts no colours, or the palette is missing.
        """
        if prediction.colors is None or self.palette is None:
            raise ValueError(
                "losses: MeanAbsoluteColor compares colours, which a model has under "
                "segbench.tasks.color.ColorTask only; choose that task, or another loss"
            )
        size = (label.shape[-2], label.shape[-1])
        colors = prediction.colors.float()  # (B, 3, h, w)
        colors = F.interpolate(colors, size, mode="bilinear", align_corners=False)
        known, valid = split_labels(label, len(self.palette), self.ignore_index)  # (B, H, W)
        wanted = self.palette[known]  # (B, H, W, 3)
        difference = (colors - wanted.permute(0, 3, 1, 2)).abs().mean(1)  # (B, H, W)
        total, pixels = all_reduce_sum((difference * valid).sum(), valid.sum())
        return total / pixels.clamp(min=1)

"""Cross-entropy of upsampled logits, through the kernel that never holds them at full size."""

from typing import Literal

from torch import Tensor

from segbench.kernels.upsample_cross_entropy import Backend, upsample_cross_entropy
from segbench.losses.base import Loss, register_class_weights
from segbench.types import Prediction


class CrossEntropy(Loss):
    """Mean over valid pixels, as `torch.nn.CrossEntropyLoss` and official Segmenter have it."""

    class_weights: Tensor | None

    def __init__(
        self,
        num_classes: int,
        ignore_index: int,
        weight: float = 1.0,
        class_weights: list[float] | None = None,
        label_smoothing: float = 0.0,
        mean_over: Literal["valid", "all"] = "valid",
        backend: Backend = "auto",
    ) -> None:
        """Checks the options.

        Args:
            num_classes: `K`.
            ignore_index: Label that takes no part.
            weight: Factor of this loss among the others.
            class_weights: One weight for each class; pixels count with the weight of their class.
            label_smoothing: Share of the target spread evenly over all classes, in [0, 1].
            mean_over: "all" divides by all pixels, ignored ones included, as MMSegmentation does by default.
            backend: Which implementation of the kernel to use.

        Raises:
            ValueError: If weights are not one for each class, or smoothing is out of range.
        """
        super().__init__()
        register_class_weights(self, class_weights, num_classes)
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing must lie in [0, 1]; got {label_smoothing}")
        self.name = "cross_entropy"
        self.weight = weight
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing
        self.mean_over = mean_over
        self.backend = backend

    def forward(self, prediction: Prediction, label: Tensor) -> Tensor:
        """Returns the mean cross-entropy over valid pixels."""
        return upsample_cross_entropy(
            prediction.logits,
            label,
            ignore_index=self.ignore_index,
            weight=self.class_weights,
            label_smoothing=self.label_smoothing,
            mean_over=self.mean_over,
            whole_batch=True,
            backend=self.backend,
        )

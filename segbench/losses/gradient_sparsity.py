"""Sparse discrete gradients: the mask of a class should be uniform inside and drop off at once.

Source: the attention U-Net article, §4.3, which gives no constants; its code
(https://github.com/dmitri-chouchkov/fashion-segmentation) has no such loss. The article's network predicts
every pixel. Where a decoder predicts coarser cells, the gradient is taken between cells: upsampling spreads any
jump over many pixels, so that there is nothing left to choose.
"""

from torch import Tensor

from segbench.functional.bands import sum_over_bands
from segbench.functional.labels import valid_share
from segbench.losses.base import Loss
from segbench.types import Prediction
from segbench.utils.distributed import all_reduce_sum


class GradientSparsity(Loss):
    """`Σ_j max((|x_j| + ε)^p − ε^p − c, 0)`, a mean over all neighbours whose probabilities differ by `x`."""

    def __init__(
        self,
        num_classes: int,
        ignore_index: int,
        weight: float = 1.0,
        p: float = 0.5,
        epsilon: float = 0.01,
        cutoff: float = 0.04,  # with the other two: differences below 0.0096 are free
    ) -> None:
        """Checks the options.

        Args:
            num_classes: `K`; unused here.
            ignore_index: Label that takes no part. Neighbours count if both cells hold other pixels as well.
            weight: Factor of this loss among the others.
            p: Exponent in (0, 1]; below 1, one big jump costs less than many little ones.
            epsilon: Bounds the slope near 0.
            cutoff: What is taken off, so that small variations are free.

        Raises:
            ValueError: If an option is out of range.
        """
        super().__init__()
        if not 0 < p <= 1:
            raise ValueError(f"p must lie in (0, 1]; got {p}")
        if not epsilon > 0:
            raise ValueError(f"epsilon must be positive, or the slope at 0 is infinite; got {epsilon}")
        if not 0 <= cutoff < (1 + epsilon) ** p - epsilon**p:
            raise ValueError(
                f"cutoff must not be negative nor so large that no jump costs anything; got {cutoff}"
            )
        self.name = "gradient_sparsity"
        self.weight = weight
        self.ignore_index = ignore_index
        self.p, self.epsilon, self.cutoff = p, epsilon, cutoff

    def forward(self, prediction: Prediction, label: Tensor) -> Tensor:
        """Returns the mean penalty over all pairs of neighbouring cells."""
        grid = (prediction.logits.shape[2], prediction.logits.shape[3])
        valid = valid_share(label, self.ignore_index, grid) > 0  # (B, h, w)
        below, beside = valid[:, 1:] & valid[:, :-1], valid[:, :, 1:] & valid[:, :, :-1]

        def cost(band: Tensor, rows: slice) -> Tensor:
            g = band.softmax(1)  # (B, K, r, w); the last row belongs to the next band, if there is one
            own = slice(rows.start, rows.stop if rows.stop == grid[0] else rows.stop - 1)
            down = self._norm(g.diff(dim=2)) * below[:, None, rows.start : rows.stop - 1]
            across = self._norm(g[:, :, : own.stop - own.start].diff(dim=3)) * beside[:, None, own]
            return down.sum() + across.sum()

        total = sum_over_bands(prediction.logits, grid, cost, overlap=1)
        total, pairs = all_reduce_sum(total, below.sum() + beside.sum())
        return total / pairs.clamp(min=1)

    def _norm(self, x: Tensor) -> Tensor:
        """Computes the article's `‖x‖`, element by element."""
        risen: Tensor = (x.abs() + self.epsilon) ** self.p - self.epsilon**self.p
        return (risen - self.cutoff).clamp(min=0)

"""All that is counted over one split: the total, and every image by itself."""

from collections.abc import Sequence

from torch import Tensor, nn

from segbench.metrics.ledger import ConfusionLedger
from segbench.metrics.segmentation import SegmentationScores


class SplitScores(nn.Module):
    """Scores and ledger of one split, updated together.

    Attributes:
        scores: One confusion matrix for the split.
        ledger: One for each image.
    """

    def __init__(self, num_classes: int, ignore_index: int) -> None:
        """Starts from zero.

        Args:
            num_classes: `K`.
            ignore_index: Of the true labels.
        """
        super().__init__()
        self.scores = SegmentationScores(num_classes, ignore_index)
        self.ledger = ConfusionLedger(num_classes, ignore_index)

    def update(self, labels: Tensor, targets: Tensor, names: Sequence[str]) -> None:
        """Counts a batch.

        Args:
            labels: `(B, H, W)` predicted.
            targets: `(B, H, W)` true.
            names: Of the images.
        """
        self.scores.update(labels, targets)
        self.ledger.update(labels, targets, names)

    def reset(self) -> None:
        """Forgets everything."""
        self.scores.reset()
        self.ledger.reset()

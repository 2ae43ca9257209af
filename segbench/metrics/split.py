"""All that is counted over one split: every image by itself, and from that the scores of the whole."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segbench.metrics.ledger import ConfusionLedger
from segbench.metrics.segmentation import scores
from segbench.runs.ledger_file import Ledger


def further_split(split: str, iterations: int) -> str:
    """Names a split that is scored once more with another number of iterations.

    Args:
        split: `val` or `test`.
        iterations: Of the necks that iterate.

    Returns:
        As `test_iterations_3`.
    """
    return f"{split}_iterations_{iterations}"


class SplitScores(nn.Module):
    """Ledger of a split, and the scores of the sum over its images: every pixel is counted once, for both."""

    def __init__(self, num_classes: int, ignore_index: int) -> None:
        """Starts from zero.

        Args:
            num_classes: `K`.
            ignore_index: Of the true labels.
        """
        super().__init__()
        self.num_classes = num_classes
        self._ledger = ConfusionLedger(num_classes, ignore_index)

    def update(self, labels: Tensor, targets: Tensor, names: Sequence[str]) -> None:
        """Counts a batch.

        Args:
            labels: `(B, H, W)` predicted.
            targets: `(B, H, W)` true.
            names: Of the images.
        """
        self._ledger.update(labels, targets, names)

    def ledger(self) -> Ledger:
        """Gathers the counts of every image from all processes; all of them must call it.

        Returns:
            Sorted by name.
        """
        ledger: Ledger = self._ledger.compute()
        return ledger

    def scores(self) -> dict[str, Tensor]:
        """Scores the whole split; all processes must call it.

        Returns:
            As `segbench.metrics.segmentation.scores`, on the CPU.
        """
        return scores(torch.from_numpy(self.ledger().total(self.num_classes)))

    def reset(self) -> None:
        """Forgets everything."""
        self._ledger.reset()

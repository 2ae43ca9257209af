"""Keeps the confusion counts of every image apart, so that scores can be computed again without the model."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from segbench.metrics.segmentation import confusion_matrix
from segbench.runs.ledger_file import Ledger, SavedLedger, load_ledger, save_ledger

__all__ = ["ConfusionLedger", "Ledger", "SavedLedger", "load_ledger", "save_ledger"]


class ConfusionLedger(Metric):
    """Counts like `SegmentationScores`, image by image and with names.

    Attributes:
        rows: `(M, 3)` int64 pieces of true class, predicted class and number of pixels.
        lengths: `(n,)` int64 pieces of the number of rows of each image.
        names: uint8 pieces of UTF-8 text, one line for each image.
    """

    rows: list[Tensor]
    lengths: list[Tensor]
    names: list[Tensor]
    is_differentiable = False
    full_state_update = False

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        """Starts with no image counted.

        Args:
            num_classes: `K`.
            ignore_index: True class of pixels that take no part.
        """
        super().__init__()
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        for state in ("rows", "lengths", "names"):
            self.add_state(state, default=[], dist_reduce_fx="cat")
        self.reset()

    def reset(self) -> None:
        """Forgets all images."""
        super().reset()
        # Typed empty pieces: a process that sees no image must have something to send that fits the others'.
        self.rows.append(torch.empty(0, 3, dtype=torch.int64, device=self.device))
        self.lengths.append(torch.empty(0, dtype=torch.int64, device=self.device))
        self.names.append(torch.empty(0, dtype=torch.uint8, device=self.device))

    def update(self, labels: Tensor, targets: Tensor, names: Sequence[str]) -> None:
        """Counts a batch.

        Args:
            labels: `(B, H, W)` predicted classes.
            targets: `(B, H, W)` true classes, `ignore_index` where unlabelled.
            names: `B` names, unique within the split.

        Raises:
            ValueError: If the arguments do not fit each other, or a map holds a value that is not a class id.
        """
        if not len(labels) == len(targets) == len(names):
            raise ValueError(f"{len(names)} names for {len(labels)} label maps and {len(targets)} targets")
        if broken := [name for name in names if "\n" in name]:
            raise ValueError(f"the name {broken[0]!r} holds a line break; rename the file")
        for label, target in zip(labels, targets, strict=True):
            counts = confusion_matrix(label, target, self.num_classes, self.ignore_index)
            cells = counts.nonzero()  # (M, 2)
            self.rows.append(torch.cat((cells, counts[cells[:, 0], cells[:, 1], None]), 1))
            self.lengths.append(torch.tensor([len(cells)], device=cells.device))
        text = "".join(f"{name}\n" for name in names).encode()
        self.names.append(torch.tensor(list(text), dtype=torch.uint8, device=labels.device))

    def compute(self) -> Ledger:
        """Sorts the images of all processes by name, so that their number leaves no trace.

        Returns:
            The counts of every image.
        """
        rows, lengths = dim_zero_cat(self.rows).cpu().numpy(), dim_zero_cat(self.lengths).cpu().numpy()
        names = dim_zero_cat(self.names).cpu().numpy().tobytes().decode().split("\n")[:-1]
        pieces = np.split(rows, np.cumsum(lengths)[:-1]) if len(lengths) else []
        order = sorted(range(len(names)), key=names.__getitem__)
        return Ledger(
            tuple(names[i] for i in order),
            np.cumsum([0, *lengths[order]], dtype=np.int64),
            np.concatenate([rows[:0], *(pieces[i] for i in order)]),
        )

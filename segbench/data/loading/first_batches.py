"""A look at the labels of the first training batches, on the CPU, where a mistake still has a name."""

from lightning_utilities.core.rank_zero import rank_zero_warn

from segbench.data.spec import DatasetSpec, present_ids
from segbench.types import Batch


class FirstBatches:
    """Refuses labels on which CUDA would stop without a reason, and warns of labels that teach nothing.

    Files have been checked when they are read; what reaches a batch has gone through the transforms as well.
    """

    def __init__(self, spec: DatasetSpec, num_batches: int = 8) -> None:
        """Begins to count.

        Args:
            spec: Classes and `ignore_index`.
            num_batches: How many batches are looked at; enough that small crops show more than one class.
        """
        self.spec = spec
        self.remaining = num_batches
        self.num_batches = num_batches
        self.present: set[int] = set()

    def look(self, batch: Batch) -> None:
        """Looks at one batch, if it is among the first.

        Args:
            batch: On the CPU.

        Raises:
            ValueError: If a label is neither a class nor `ignore_index`.
        """
        if self.remaining == 0:
            return
        self.remaining -= 1
        k, void = self.spec.num_classes, self.spec.ignore_index
        present = present_ids(batch.label.flatten(1).numpy()).tolist()
        wrong = [label for label in present if not (0 <= label < k or label == void)]
        if wrong:
            name = next(name for name, label in zip(batch.name, batch.label, strict=True) if wrong[0] in label)
            raise ValueError(
                f"label {wrong[0]} of {name} is not a class (0..{k - 1}) once train_transforms are done with"
                f" it: let those that pad or erase fill masks with {void}, the ignore_index, by fill_mask"
            )
        self.present.update(present)
        if self.remaining == 0:
            self._judge()

    def _judge(self) -> None:
        if not self.present - {self.spec.ignore_index}:
            rank_zero_warn(
                f"no pixel of the first {self.num_batches} training batches has a class once they are cropped"
                " and augmented: nothing is learned from them; look at img_size, scale and train_transforms"
            )

"""`splits/`: which image was in which split, where the dataset is published without splits."""

from pathlib import Path

import lightning as L

from segbench.data.base import SegmentationDataModule
from segbench.utils.files import atomic_write


class SplitLists(L.Callback):
    """Writes `train.txt`, `val.txt` and so on, one name per line, as far as the run looked at them."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Writes the lists; the data module has set itself up before."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not (isinstance(data, SegmentationDataModule) and data.layout.own_splits and trainer.is_global_zero):
            return
        folder = Path(trainer.default_root_dir) / "splits"
        folder.mkdir(parents=True, exist_ok=True)
        for split, names in data.listed().items():
            with atomic_write(folder / f"{split}.txt") as draft:
                draft.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")

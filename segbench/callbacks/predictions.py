"""`predictions/`: the label maps of `segbench predict`."""

from pathlib import Path
from typing import Any, Literal

import lightning as L

from segbench.data.base import SegmentationDataModule
from segbench.tasks.base import Task
from segbench.types import Batch
from segbench.visualization import pictures


class PredictionFiles(L.Callback):
    """Writes each label map as a grey PNG of class indices and as a coloured one."""

    def __init__(self, ids: Literal["training", "file"] = "training") -> None:
        """Takes the form.

        Args:
            ids: Of the grey PNGs: training writes class indices; file writes the ids of the dataset's own label
                files, as benchmark servers take them, and leaves the coloured ones out.
        """
        self.ids = ids

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Looks whether each image has a file of its own.

        Raises:
            ValueError: If two would have the same.
        """
        data = trainer.datamodule  # type: ignore[attr-defined]
        names: dict[str, str] = {}
        for pair in data.dataset("predict").pairs if isinstance(data, SegmentationDataModule) else ():
            file = pictures.file_name(pair.name)
            if names.setdefault(file, pair.name) != pair.name:
                raise ValueError(
                    f"images '{names[file]}' and '{pair.name}' would both become {file}.png: rename one"
                )

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Writes the batch."""
        if not isinstance(pl_module, Task):
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        if self.ids == "file" and not isinstance(data, SegmentationDataModule):
            raise ValueError("predictions.ids=file needs a dataset with ids of its own: leave it out")
        folder = Path(trainer.default_root_dir) / "predictions"
        (folder / "color" if self.ids == "training" else folder).mkdir(parents=True, exist_ok=True)
        for labels, name in zip(outputs.cpu().numpy(), batch.name, strict=True):
            file = f"{pictures.file_name(name)}.png"
            if self.ids == "file":
                pictures.write_png(str(folder / file), data.spec.encode(labels))
                continue
            pictures.write_png(str(folder / file), pictures.index_image(labels, pl_module.num_classes))
            pictures.write_png(str(folder / "color" / file), pictures.colorize(labels, pl_module.palette))

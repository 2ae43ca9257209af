"""`predictions/`: the label maps of `segbench predict`."""

from pathlib import Path
from typing import Any

import lightning as L

from segbench.functional import pictures
from segbench.tasks.base import Task
from segbench.types import Batch


class PredictionFiles(L.Callback):
    """Writes each label map as a grey PNG of class indices and as a coloured one."""

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
        folder = Path(trainer.default_root_dir) / "predictions"
        (folder / "color").mkdir(parents=True, exist_ok=True)
        for labels, name in zip(outputs.cpu().numpy(), batch.name, strict=True):
            stem = pictures.file_name(name)
            indices = pictures.index_image(labels, pl_module.num_classes)
            pictures.write_png(str(folder / f"{stem}.png"), indices)
            pictures.write_png(
                str(folder / "color" / f"{stem}.png"), pictures.colorize(labels, pl_module.palette)
            )

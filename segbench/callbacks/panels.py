"""`panels/`: image | label | prediction | errors | entropy of a few images, with the names of the classes.

The entropy is that of the averaged probabilities, bright where the model hesitates. It is computed for these
few images alone, at the panel's own size: one more forward pass for each. With a post-processor, boundary
probabilities, regions and the argmax classes before it come from one more, at full size.
"""

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from torch import Tensor

from segbench.postprocess.regions import Regions
from segbench.tasks.base import Task
from segbench.types import Batch
from segbench.visualization import pictures


class Panels(L.Callback):
    """Draws the same few images, spread evenly over the split, at every validation and test."""

    def __init__(self, num_images: int = 8, tile_size: int = 320) -> None:
        """Takes the sizes.

        Args:
            num_images: Images drawn each time; 0 draws none.
            tile_size: Longer side of each picture of a panel, in pixels.
        """
        self.num_images = num_images
        self.tile_size = tile_size

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draws, unless this is the sanity check."""
        if not trainer.sanity_checking:
            self._draw(trainer, pl_module, outputs, batch, batch_idx, "val", int(trainer.num_val_batches[0]))

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draws."""
        self._draw(trainer, pl_module, outputs, batch, batch_idx, "test", int(trainer.num_test_batches[0]))

    def _draw(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        labels: Any,
        batch: Batch,
        batch_idx: int,
        split: str,
        num_batches: int,
    ) -> None:
        if not trainer.is_global_zero or not isinstance(module, Task) or not self.num_images:
            return
        # Spread over the batches: none, one or several of each, the same at every validation.
        before, after = (index * self.num_images // num_batches for index in (batch_idx, batch_idx + 1))
        folder = Path(trainer.default_root_dir) / "panels"
        folder.mkdir(exist_ok=True)
        for index in range(min(after - before, len(batch.name))):
            with trainer.precision_plugin.forward_context():
                size = pictures.shrunk_size(batch.image.shape[-2:], self.tile_size)
                entropy = module.confidence(batch.image[index, None], out_size=size).entropy[0]
                steps = self._steps(module, batch.image[index, None])
            picture = self._panel(
                module,
                batch.image[index].permute(1, 2, 0).cpu().numpy(),
                batch.label[index].cpu().numpy(),
                labels[index].cpu().numpy(),
                steps,
                pictures.heat(entropy.cpu().numpy()),
            )
            name = pictures.file_name(batch.name[index])
            pictures.write_png(str(folder / f"{split}-step{trainer.global_step:06d}-{name}.png"), picture)
            _log(trainer, f"{split}/{name}", picture)

    def _steps(self, module: Task, image: Tensor) -> list[tuple[str, pictures.Image]]:
        """Draws what leads to a post-processor's labels; nothing where there is no post-processor."""
        if module.postprocess is None:
            return []
        (found,) = module.predict_proba(image)
        probabilities, boundary = found.probabilities.cpu().numpy(), found.boundary.cpu().numpy()
        drawn = [
            ("before", pictures.colorize(probabilities.argmax(0), module.palette)),
            ("boundary", pictures.heat(boundary)),
        ]
        if isinstance(module.postprocess, Regions):
            regions = module.postprocess.steps(probabilities, boundary).regions
            drawn.append(("regions", pictures.patchwork(regions)))
        return [
            (title, np.asarray(pictures.shrink(picture, self.tile_size, nearest=title != "boundary"), np.uint8))
            for title, picture in drawn
        ]

    def _panel(
        self,
        module: Task,
        image: pictures.Image,
        target: pictures.Labels,
        labels: pictures.Labels,
        steps: list[tuple[str, pictures.Image]],
        entropy: pictures.Image,
    ) -> pictures.Image:
        shown = np.asarray(pictures.shrink(image, self.tile_size), dtype=np.uint8)
        target = np.asarray(pictures.shrink(target, self.tile_size, nearest=True)).astype(np.int64)
        labels = np.asarray(pictures.shrink(labels, self.tile_size, nearest=True)).astype(np.int64)
        present = [
            index for index in range(module.num_classes) if (target == index).any() or (labels == index).any()
        ]
        predicted = pictures.colorize(labels, module.palette)
        return pictures.panel(
            [
                ("image", shown),
                ("label", pictures.colorize(target, module.palette)),
                *steps,
                ("prediction", predicted),
                ("errors", pictures.errors(labels, target, module.ignore_index)),
                ("entropy", entropy),
            ],
            [module.class_names[index] for index in present],
            [module.palette[index] for index in present],
        )


def _log(trainer: L.Trainer, key: str, picture: pictures.Image) -> None:
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(key, [picture])
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(key, picture, trainer.global_step, dataformats="HWC")

"""What the first training batches say on the CPU, before CUDA could stop without a reason."""

import re

import albumentations as A
import lightning as L
import numpy as np
import pytest
import torch

from segbench.data.folder import FolderDataModule, FolderLayout
from segbench.data.loading.first_batches import FirstBatches
from segbench.data.spec import DatasetSpec, default_palette
from segbench.data.synthetic import write_synthetic
from segbench.types import Batch

SPEC = DatasetSpec(("sky", "road", "car"), default_palette(3))


def batch(*labels):
    label = torch.from_numpy(np.stack([np.asarray(row, np.uint8).reshape(1, -1) for row in labels]))
    image = torch.zeros(len(labels), 3, *label.shape[1:], dtype=torch.uint8)
    return Batch(image, label, tuple(f"image {i}" for i in range(len(labels))))


def test_sound_labels_pass_in_silence():
    first = FirstBatches(SPEC, 2)
    for _ in range(3):
        first.look(batch([0, 1, 255], [2, 2, 2]))


def test_a_label_that_is_no_class_is_refused_with_its_image():
    with pytest.raises(ValueError, match=r"label 99 of image 1 is not a class \(0\.\.2\).*fill_mask"):
        FirstBatches(SPEC).look(batch([0, 1, 2], [0, 99, 2]))


def test_batches_without_a_class_are_warned_of_once():
    first = FirstBatches(SPEC, 2)
    first.look(batch([255, 255]))
    with pytest.warns(UserWarning, match="no pixel of the first 2 training batches has a class"):
        first.look(batch([255, 255]))
    first.look(batch([255, 255]))


def test_later_batches_cost_nothing():
    first = FirstBatches(SPEC, 1)
    first.look(batch([0, 1]))
    first.look(batch([0, 99]))  # files and transforms are the same as in the first


class Idle(L.LightningModule):
    """Learns one number."""

    def __init__(self):
        super().__init__()
        self.number = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        return self.number**2

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_fit_looks_at_batches_as_the_transforms_left_them(tmp_path):
    write_synthetic(tmp_path / "twin", SPEC, FolderLayout(), {"train": 4, "val": 1}, size=(32, 32))
    transforms = [A.PadIfNeeded(40, 40, fill_mask=7, border_mode=0)]
    data = FolderDataModule(
        tmp_path / "twin", img_size=(40, 40), batch_size=2, num_workers=0, train_transforms=transforms
    )
    trainer = L.Trainer(
        max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, limit_val_batches=0, default_root_dir=tmp_path,
    )  # fmt: skip
    with pytest.raises(ValueError, match=re.escape("label 7 of ")):
        trainer.fit(Idle(), data)

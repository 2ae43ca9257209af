"""A run that was interrupted sees the same images, augmented alike, as one that was not."""

import contextlib

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from segbench.data.synthetic import SyntheticDataModule

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks"),
]


class InterruptionError(RuntimeError):
    pass


class Stop(Callback):
    def __init__(self, after, save=None):
        self.after = after
        self.save = save

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.fit_loop.epoch_loop.batch_progress.total.processed == self.after:
            if self.save:
                trainer.save_checkpoint(self.save)
            raise InterruptionError


class Recorder(L.LightningModule):
    """Writes down what it is shown: names, and a sum that changes with any augmentation."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append((batch.name, batch.image.long().sum().item(), batch.label.long().sum().item()))
        return self.weight * 1.0

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


def train(cache, folder, *, ckpt_path=None, callbacks=(), num_workers=0, **limits):
    module = Recorder()
    data = SyntheticDataModule(
        num_classes=4,
        image_size=(40, 48),
        num_images={"train": 11, "val": 2, "test": 1},
        cache_dir=cache,
        img_size=(32, 32),
        batch_size=2,
        num_workers=num_workers,
    )
    trainer = L.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        callbacks=list(callbacks),
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
        **limits,
    )
    with contextlib.suppress(InterruptionError):
        trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
    return module.seen


# 11 images in batches of 2: 5 batches a pass.
CASES = [
    (2, 2, {"max_steps": 13}),  # in the midst of the first pass
    (8, 8, {"max_steps": 13}),  # in the midst of the second
    (5, 5, {"max_steps": 13}),  # at the end of one
    (5, 5, {"max_epochs": 3}),
    (7, 7, {"max_epochs": 3}),
    (2, 4, {"max_steps": 6, "accumulate_grad_batches": 2}),
    (3, 5, {"max_steps": 6, "accumulate_grad_batches": 2}),  # the last batch of a pass makes a step of its own
    (4, 4, {"max_steps": 13, "limit_train_batches": 3}),
]


@pytest.mark.parametrize(
    ("num_workers", "step", "batches", "limits"),
    [(0, *case) for case in CASES] + [(2, *case) for case in CASES[:2]],
)
def test_resumed_run_sees_what_the_uninterrupted_one_would(cache, tmp_path, num_workers, step, batches, limits):
    whole = train(cache, tmp_path, **limits)
    keep = ModelCheckpoint(tmp_path / "kept", "at", every_n_train_steps=step)
    before = train(cache, tmp_path, callbacks=[keep, Stop(batches + 1)], num_workers=num_workers, **limits)
    assert before == whole[: batches + 1]
    after = train(cache, tmp_path, ckpt_path=tmp_path / "kept" / "at.ckpt", num_workers=num_workers, **limits)
    assert after == whole[batches:]


def test_resumes_from_a_checkpoint_made_while_failing(cache, tmp_path):
    whole = train(cache, tmp_path, max_steps=13)
    train(cache, tmp_path, callbacks=[Stop(8, save=tmp_path / "failed.ckpt")], max_steps=13)
    assert train(cache, tmp_path, ckpt_path=tmp_path / "failed.ckpt", max_steps=13) == whole[8:]


@pytest.mark.parametrize("val_check_interval", [2, 3])
def test_resumes_from_a_checkpoint_of_validation_in_mid_epoch(cache, tmp_path, val_check_interval):
    limits = {"max_steps": 12, "val_check_interval": val_check_interval}
    whole = train(cache, tmp_path, **limits)

    keep = ModelCheckpoint(tmp_path / "kept", "at-{step}", save_top_k=-1, save_on_train_epoch_end=False)
    train(cache, tmp_path, callbacks=[keep], **limits)
    saved = sorted((tmp_path / "kept").glob("*.ckpt"))
    assert len(saved) >= 2
    for path in saved:
        step = int(path.stem.split("step=")[1])
        assert whole[:step] + train(cache, tmp_path, ckpt_path=path, **limits) == whole


def test_validation_interval_across_epochs(cache, tmp_path):
    limits = {"max_steps": 12, "val_check_interval": 7, "check_val_every_n_epoch": None}
    whole = train(cache, tmp_path, **limits)
    keep = ModelCheckpoint(tmp_path / "kept", "at", save_on_train_epoch_end=False)
    train(cache, tmp_path, callbacks=[keep, Stop(9)], **limits)
    assert whole[:7] + train(cache, tmp_path, ckpt_path=tmp_path / "kept" / "at.ckpt", **limits) == whole


def test_the_end_of_an_epoch_is_resumed(cache, tmp_path):
    whole = train(cache, tmp_path, max_steps=13)
    keep = ModelCheckpoint(tmp_path / "kept", "at", save_on_train_epoch_end=True)
    train(cache, tmp_path, callbacks=[keep, Stop(7)], max_steps=13)
    assert whole[:5] + train(cache, tmp_path, ckpt_path=tmp_path / "kept" / "at.ckpt", max_steps=13) == whole


def test_every_pass_shows_other_images_in_another_order(cache, tmp_path):
    seen = train(cache, tmp_path, max_steps=10)
    first, second = [[name for names, *_ in part for name in names] for part in (seen[:5], seen[5:])]
    assert len(set(first)) == len(set(second)) == 10
    assert first != second
    assert len({pixels for _, pixels, _ in seen}) == 10


def test_the_model_has_the_global_random_numbers_to_itself(cache, tmp_path):
    class Dice(Recorder):
        def training_step(self, batch, batch_idx):
            self.seen.append(torch.rand(()).item())
            return super().training_step(batch, batch_idx)

    torch.manual_seed(0)
    expected = torch.rand(6).tolist()
    torch.manual_seed(0)
    module = Dice()
    data = SyntheticDataModule(
        4, (40, 48), {"train": 4, "val": 2, "test": 1}, cache, (32, 32), 2, num_workers=0
    )
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        use_distributed_sampler=False,
    )
    trainer.fit(module, data)
    assert np.allclose([x for x in module.seen if isinstance(x, float)], expected)


def test_other_data_than_the_checkpoint_s_are_noticed(cache, tmp_path):
    keep = ModelCheckpoint(tmp_path / "kept", "at", every_n_train_steps=2)
    train(cache, tmp_path, callbacks=[keep, Stop(3)], max_steps=8)
    data = SyntheticDataModule(
        4, (40, 48), {"train": 8, "val": 2, "test": 1}, cache, (32, 32), 2, num_workers=0
    )
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=4,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    with pytest.warns(UserWarning, match="another order"):
        trainer.fit(Recorder(), data, ckpt_path=tmp_path / "kept" / "at.ckpt", weights_only=True)

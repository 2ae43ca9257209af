"""Lets a frozen encoder encode each training image once, for every decoder and every seed that comes after.

The task's option `cache_features: K` asks for it. Before the first step `K` views of each training image are
drawn, encoded, and kept under `$SEGBENCH_CACHE`; training then neither reads images nor runs the encoder.
Validation and test run it as ever. What that changes against training with the same frozen encoder:

- An image has `K` views, which take turns from epoch to epoch, where it had a new one at each visit.
- Views are drawn once: other values of `data.seed` change the order of images, no longer their augmentation.
- Decoders see features rounded to 16 bits.

That no gradient reaches the encoder, and that it drops nothing at random, holds for any frozen encoder. A cache
belongs to the encoder's weights and options, the files, the transforms and the precision. Where one of them
changes another is made, and the old one stays until its folder is deleted. Code is not looked into: who changes
an encoder's or a transform's own code deletes the folder by hand. `config.yaml` and `run.json` say what a run
was trained on.
"""

import hashlib
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from rich.progress import track
from torch import nn

from segbench.callbacks.feature_cache.store import FeatureStore, gigabytes
from segbench.callbacks.feature_cache.views import package_version, view, view_dataset, view_recipe
from segbench.data.base import Item, SegmentationDataModule, SegmentationDataset
from segbench.data.loading.dataset import collate
from segbench.data.loading.sampling import SampleIndex
from segbench.tasks.base import Task
from segbench.types import Batch
from segbench.utils.files import cache_folder
from segbench.utils.lock import FolderLock

_VERSION = 2  # counts up when records change, so that old caches are not taken for new ones
_CHANGES = (
    "{views} views of each training image, the same for all seeds, in turn from epoch to epoch instead of a new"
    " one at each visit; features rounded to 16 bits;"
    " no gradient and no random depth in the encoder, as whenever frozen"
)
# Where weights come from does not matter, since they are compared themselves; nor does what acts in training.
_WITHOUT_EFFECT = {"pretrained", "drop_path_rate", "grad_checkpointing"}


class FeatureCache(L.Callback):
    """Fills the cache before training, and gives it to the training images.

    Attributes:
        report: What `run.json` says of it; None where no features are cached.
    """

    def __init__(self) -> None:
        self.report: dict[str, Any] | None = None
        self._train: SegmentationDataset | None = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Encodes what is missing: here weights are restored, moved and converted, and no image is loaded yet.

        Raises:
            ValueError: If the task or its data were not configured as `segbench fit` does, or there is no room.
        """
        if not isinstance(pl_module, Task) or not pl_module.cache_features:
            return
        data = trainer.datamodule  # type: ignore[attr-defined]  # set where mypy does not look
        if not isinstance(data, SegmentationDataModule):
            raise ValueError("cache_features: the data come from no SegmentationDataModule; set it to 0")
        encoder = pl_module.parts()["encoder"]
        recipe = {
            "version": _VERSION,
            "encoder": encoder_recipe(pl_module),
            "weights": digest(encoder),
            "precision": str(trainer.precision),
            "views": view_recipe(data),
        }
        self._train = data.dataset("train")
        names = [pair.name for pair in self._train.pairs]
        store = FeatureStore(cache_folder(), recipe, names, pl_module.cache_features)
        start = time.perf_counter()
        encoded = self._fill(trainer, encoder, data, store)
        self._train.cached = store.item
        self.report = {
            "views": store.views,
            "changes": _CHANGES.format(views=store.views),
            "fingerprint": store.fingerprint,
            "bytes": store.views * len(names) * store.bytes_per_image,
            "encoded": encoded,  # by this process
            "time_s": time.perf_counter() - start,
        }

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Gives the data module back as it was."""
        if self._train is not None:
            self._train.cached = None

    def _fill(
        self, trainer: L.Trainer, encoder: nn.Module, data: SegmentationDataModule, store: FeatureStore
    ) -> int:
        """Encodes this process's share of what is missing, and waits for the others.

        Returns:
            How many views it encoded.
        """
        dataset, total = view_dataset(data), len(store.names)
        if store.record is None:
            (first,) = _encode(trainer, encoder, collate([dataset[view(0, 0, total)]]))
            store.describe(first)
        with _filling(trainer, store):
            return self._fill_alone(trainer, encoder, data, store, dataset)

    def _fill_alone(
        self,
        trainer: L.Trainer,
        encoder: nn.Module,
        data: SegmentationDataModule,
        store: FeatureStore,
        dataset: SegmentationDataset,
    ) -> int:
        if trainer.is_global_zero:
            _announce(store)
        store.check_room()
        total = len(store.names)
        parts = store.missing(trainer.global_rank, trainer.world_size)
        size = data.batch_size
        jobs = [
            [view(image, part.view, total) for image in range(first, min(first + size, part.stop))]
            for part in parts
            for first in range(part.first, part.stop, size)
        ]
        shown = trainer.is_global_zero and trainer.progress_bar_callback is not None and bool(jobs)
        batches = iter(track(_loaded(data, dataset, jobs), "Encoding views", len(jobs), disable=not shown))
        for part in parts:
            items: list[Item] = []
            while len(items) < part.stop - part.first:
                items += _encode(trainer, encoder, next(batches))
            store.write(part, items)
        next(batches, None)  # lets the progress bar end
        trainer.strategy.barrier("feature_cache")
        if store.missing():
            raise ValueError(
                f"{store.folder} lacks what another process has written: name a folder that all machines share"
                " by SEGBENCH_CACHE"
            )
        return sum(map(len, jobs))


@contextmanager
def _filling(trainer: L.Trainer, store: FeatureStore) -> Iterator[None]:
    """Keeps other runs from encoding the same; later ones wait, and reuse the result."""
    lock = FolderLock(store.folder, "")
    if trainer.strategy.broadcast(bool(store.missing())):
        # Turn by turn: the other processes of this run would give up a first one that says nothing for long.
        while not trainer.strategy.broadcast(trainer.is_global_zero and lock.attempt(60)):
            pass
    try:
        yield
    finally:
        lock.release()


def encoder_recipe(task: Task) -> Any:
    """Writes down how the encoder was configured, as far as its features depend on it.

    Args:
        task: Built by the command line, which leaves the configuration in its hyper-parameters.

    Returns:
        Plain values.

    Raises:
        ValueError: If it was built in Python.
    """
    saved = task.hparams
    if "_class_path" not in saved:
        raise ValueError("cache_features: the encoder was built in Python; train it through `segbench fit`")
    config = saved["encoder"]
    if isinstance(config, dict):
        options = config.get("init_args", {})
        config = [config["class_path"], {k: v for k, v in options.items() if k not in _WITHOUT_EFFECT}]
    return {"config": repr(config), "img_size": list(saved["img_size"]), "timm": package_version("timm")}


def digest(module: nn.Module) -> str:
    """Hashes all weights and buffers.

    Args:
        module: On any device, in any precision.

    Returns:
        Hexadecimal digits.
    """
    result = hashlib.sha256()
    for name, tensor in sorted([*module.named_parameters(), *module.named_buffers()], key=lambda pair: pair[0]):
        result.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        result.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return result.hexdigest()


def _loaded(data: SegmentationDataModule, dataset: SegmentationDataset, jobs: list[list[SampleIndex]]) -> Any:
    return data.train_loader(dataset, jobs) if jobs else []


def _encode(trainer: L.Trainer, encoder: nn.Module, batch: Batch) -> list[Item]:
    with torch.no_grad(), trainer.precision_plugin.forward_context():
        maps = encoder(batch.image.to(trainer.strategy.root_device)).maps
    maps = [level.half().cpu() for level in maps]
    return [
        Item(image, label, name, tuple(level[index] for level in maps))
        for index, (image, label, name) in enumerate(zip(batch.image, batch.label, batch.name, strict=True))
    ]


def _announce(store: FeatureStore) -> None:
    missing = sum(part.stop - part.first for part in store.missing())
    images, each = len(store.names), store.bytes_per_image
    print(
        f"cache_features: {store.views} views of {images} images, {gigabytes(each)} each,"
        f" {gigabytes(store.views * images * each)} in all, {gigabytes(missing * each)} of it still to be made,"
        f" in {store.folder}, to be deleted by you after the last run; other caches beside it:"
        f" {store.neighbours()}",
        file=sys.stderr,
    )

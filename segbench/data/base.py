"""The contract of a dataset: a spec, a layout, and the data module that turns them into batches."""

import os
import warnings
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import cv2
import lightning as L
import torch
from torch.utils.data import DataLoader

from segbench.data.augment import Augmentation, StandardAugment, plain_augment
from segbench.data.io.decoded import DecodedFiles
from segbench.data.io.files import composed, is_jpeg_name
from segbench.data.io.formats import SUFFIXES
from segbench.data.io.listing import subfolders
from segbench.data.label_census import check_labels
from segbench.data.loading.dataset import Item, Sample, SegmentationDataset, collate
from segbench.data.loading.first_batches import FirstBatches
from segbench.data.loading.sampling import DistributedEvalSampler, SampleIndex, TrainBatchSampler
from segbench.data.loading.workers import WorkerLoader
from segbench.data.spec import DatasetSpec, Layout, Pair, Split
from segbench.data.transforms import Transform, Transforms
from segbench.types import Batch

__all__ = [
    "DatasetSpec",
    "Item",
    "Layout",
    "Pair",
    "Sample",
    "SegmentationDataModule",
    "SegmentationDataset",
    "Split",
]

_SPLITS_OF_STAGE: dict[str, tuple[Split, ...]] = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("predict",),
}


class SegmentationDataModule(L.LightningDataModule):
    """Loaders of one dataset. A subclass says `spec` and `layout`, and often nothing else.

    Evaluation reads images untouched, at their own size. The trainer must not replace samplers
    (`use_distributed_sampler=False`): every process already takes its own share, and no image twice.
    """

    spec: DatasetSpec
    layout: Layout

    def __init__(
        self,
        root: str | Path,
        img_size: tuple[int, int] = (512, 512),
        batch_size: int = 8,
        num_workers: int | None = None,
        eval_batch_size: int = 1,
        seed: int | None = None,
        scale: tuple[int, int] | None = None,
        train_transforms: list[Transform] | None = None,
        remap: dict[int, int] | None = None,
        augment: bool = True,
        exclude: list[str] | None = None,
        cache: bool = False,
        reduced_decode: bool = False,
    ) -> None:
        """Sets up the module; no image is looked for yet.

        Args:
            root: Folder of the dataset.
            img_size: Height and width of training crops.
            batch_size: Training images on each device.
            num_workers: Loading processes on each device; by default as many as there are free processors.
            eval_batch_size: Images in a batch of evaluation; above 1 only where all have one size.
            seed: Decides order and augmentation of training images, together with nothing else; null takes
                `seed_everything` on the command line and 0 in Python. Which images are in which split never
                depends on it.
            scale: (long, short) limits that images are fitted into before they are scaled at random; `None`
                leaves their own size.
            train_transforms: Albumentations transforms in place of the standard ones.
            remap: Training ids for ids of the label files, on top of what the dataset already says.
            augment: Change training images at random; false only crops and pads them to `img_size`.
            exclude: Images to leave out of all splits, as paths below the root.
            cache: Keep decoded files in the cache folder and map them into memory: faster from the second pass
                on, where the set fits into memory or lies on a fast disk.
            reduced_decode: Decode training JPEGs at a half, a quarter or an eighth of their size where a draw
                shrinks them at least as much; faster for images much larger than the crops. Windows and
                labels stay the same, pixels are smoother; see `segbench.data.io.scaled_jpeg`.

        Raises:
            ValueError: If a number is out of range, or options contradict each other.
        """
        super().__init__()
        seed = 0 if seed is None else seed
        if min(*img_size, batch_size, eval_batch_size) < 1 or seed < 0 or (num_workers or 0) < 0:
            raise ValueError(
                f"img_size={img_size}, batch_size={batch_size} and eval_batch_size={eval_batch_size} must be"
                f" positive, seed={seed} and num_workers={num_workers} not negative"
            )
        self.root = Path(root).expanduser()
        self.img_size = (int(img_size[0]), int(img_size[1]))
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.eval_batch_size = eval_batch_size
        self.seed = seed
        self.exclude = list(exclude or [])
        self.cache = cache
        if remap:
            self.spec = replace(self.spec, remap={**self.spec.remap, **remap})
        if train_transforms and not augment:
            raise ValueError("augment=false and train_transforms contradict each other: give one of them")
        self.augment: Augmentation = (
            Transforms(train_transforms, seed) if train_transforms else self.default_augment(scale, augment)
        )
        self.reduced_decode = reduced_decode
        if reduced_decode:
            _check_reducible(self.layout, self.augment, cache)
        self._datasets: dict[Split, SegmentationDataset] = {}
        self._first_batches = FirstBatches(self.spec)
        self._labels_checked = False

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.spec.num_classes

    @property
    def ignore_index(self) -> int:
        """Label of pixels without a class."""
        return self.spec.ignore_index

    @property
    def class_names(self) -> list[str]:
        """Names in the order of training ids."""
        return list(self.spec.classes)

    @property
    def palette(self) -> list[list[int]]:
        """RGB colours in the order of training ids."""
        return [list(color) for color in self.spec.palette]

    def default_augment(self, scale: tuple[int, int] | None, augment: bool) -> Augmentation:
        """Builds the augmentation that holds where no `train_transforms` are given."""
        build = StandardAugment if augment else plain_augment
        return build(self.img_size, self.ignore_index, scale, self.seed)

    def pairs(self, split: Split) -> list[Pair]:
        """Finds the files of a split that are not left out.

        Args:
            split: Which.

        Returns:
            Pairs, sorted by name; without a label where the mask is missing.

        Raises:
            FileNotFoundError: If the split's folder is missing.
            ValueError: If the split is empty, or `exclude` names files that are not images.
        """
        pairs = self.layout.pairs(self.root, split)
        if not self.exclude:
            return pairs
        left_out = {_comparable(self.root / image): image for image in self.exclude}
        foreign = left_out.keys() - {_comparable(pair.image) for pair in pairs}
        wrong = [left_out[path] for path in sorted(foreign - self._pictures())] if foreign else []
        if wrong:
            example = os.path.relpath(pairs[0].image, self.root)
            raise ValueError(
                f"exclude: {wrong[0]} and {len(wrong) - 1} others are not images: give paths below {self.root},"
                f" as in {example}"
            )
        return [pair for pair in pairs if _comparable(pair.image) not in left_out]

    def listed_pairs(self) -> dict[Split, list[Pair]]:
        """Lists the files of every split that was asked for so far."""
        return {split: dataset.pairs for split, dataset in self._datasets.items()}

    def listed(self) -> dict[Split, list[str]]:
        """Names the images of every split that was asked for so far."""
        return {split: [pair.name for pair in pairs] for split, pairs in self.listed_pairs().items()}

    def dataset(self, split: Split) -> SegmentationDataset:
        """Lists a split's files, once.

        Args:
            split: `"train"` items come augmented from `[i]`; `read(i)` never is.

        Returns:
            The map-style dataset.

        Raises:
            FileNotFoundError: If the split's folder is missing.
            ValueError: If it is empty, or masks are missing.
        """
        if split not in self._datasets:
            pairs = self.pairs(split)
            bare = [pair for pair in pairs if pair.label is None]
            if bare and split != "predict":
                raise ValueError(
                    f"{bare[0].image} has no mask, nor have {len(bare) - 1} of the other {len(pairs) - 1}"
                    f" images: expected {self.layout.tree(self.root)}, which holds the folders"
                    f" {', '.join(subfolders(self.root)[:12])}; add the masks, say where they are, or leave the"
                    " images out by --data.init_args.exclude: `segbench doctor` writes either option"
                )
            if not pairs:
                raise ValueError(f"exclude leaves no image of split '{split}': shorten it")
            augment = self.augment if split == "train" else None
            read = DecodedFiles(self.layout) if self.cache else self.layout.read
            read_ids = self.layout.read_ids if self.reduced_decode else None
            if read_ids and augment and not any(is_jpeg_name(pair.image) for pair in pairs):
                L.pytorch.utilities.rank_zero_warn(
                    f"reduced_decode does nothing here: none of the {len(pairs)} training images is a JPEG, and"
                    " others are decoded in full in any case"
                )
            self._datasets[split] = SegmentationDataset(pairs, self.spec, read, augment, read_ids)
        return self._datasets[split]

    def setup(self, stage: str) -> None:
        """Checks file lists, and reads a pair, of all splits that the stage needs, before work can be lost."""
        for split in _SPLITS_OF_STAGE[stage]:
            dataset = self.dataset(split)
            # What all files of a folder have in common, such as 12 bits in 16 or a codec that is not installed,
            # is said here, once and before the first step.
            dataset.read_files(dataset.pairs[0])
        if stage == "fit":  # testing comes later; a dataset without a test split is not an error yet
            try:
                self.dataset("test")
            except FileNotFoundError:
                pass
            except ValueError as error:  # a public test split often has no masks
                L.pytorch.utilities.rank_zero_warn(
                    f"training continues, but the test split is unusable: {error}"
                )
            if not self._labels_checked:
                self._labels_checked = True
                for split in _SPLITS_OF_STAGE[stage]:
                    check_labels(split, self.dataset(split).pairs, self.layout, self.spec)

    def train_dataloader(self) -> DataLoader[Item]:
        """Batches of augmented crops, continued where training stands."""
        dataset = self.dataset("train")
        rank, world_size = self._place()
        batches = TrainBatchSampler(
            len(dataset),
            self.batch_size,
            self.seed,
            rank,
            world_size,
            batches_done=self._batches_done,
            overfit=self.trainer.overfit_batches if self.trainer else 0,  # type: ignore[attr-defined]
        )
        return self.train_loader(dataset, batches)

    def train_loader(
        self, dataset: SegmentationDataset, batches: Iterable[list[SampleIndex]]
    ) -> "ResumableLoader":
        """Loads batches of draws in as many processes as training may have.

        Args:
            dataset: Answers the draws.
            batches: In the order in which they come.

        Returns:
            The loader.
        """
        num_workers = self._workers()
        return ResumableLoader(
            dataset,
            batch_sampler=batches,
            num_workers=num_workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_start_worker,
            generator=torch.Generator().manual_seed(self.seed),  # the global one is left to the model
            persistent_workers=num_workers > 0,
        )

    def val_dataloader(self) -> DataLoader[Item]:
        """Batches of whole validation images."""
        return self._eval_loader("val")

    def test_dataloader(self) -> DataLoader[Item]:
        """Batches of whole test images."""
        return self._eval_loader("test")

    def predict_dataloader(self) -> DataLoader[Item]:
        """Batches of whole images, with or without labels."""
        return self._eval_loader("predict")

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Looks at the labels of the first training batches before they go to the device."""
        if self.trainer is not None and self.trainer.training:
            self._first_batches.look(batch)
        return batch

    def _pictures(self) -> set[str]:
        """Finds what may be left out: the images of all splits, and pictures that take no part as it is."""
        images, masks = set[str](), set[str]()
        for split in get_args(Split):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # said when the split itself is asked for
                try:
                    pairs = self.layout.pairs(self.root, split)
                except (FileNotFoundError, ValueError):
                    continue
            images |= {_comparable(pair.image) for pair in pairs}
            masks |= {_comparable(pair.label) for pair in pairs if pair.label is not None}
        named = (self.root / image for image in self.exclude)
        idle = {_comparable(path) for path in named if path.is_file() and path.suffix.lower() in SUFFIXES}
        return images | (idle - masks)

    def _eval_loader(self, split: Split) -> DataLoader[Item]:
        dataset = self.dataset(split)
        rank, world_size = self._place()
        num_workers = min(self._workers(), -(-len(dataset) // self.eval_batch_size))
        return WorkerLoader(
            dataset,
            batch_size=self.eval_batch_size,
            sampler=DistributedEvalSampler(len(dataset), self.eval_batch_size, rank, world_size),
            num_workers=num_workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_start_worker,
            generator=torch.Generator().manual_seed(self.seed),
            persistent_workers=num_workers > 0,
        )

    def _place(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _workers(self) -> int:
        if self.num_workers is not None:
            return self.num_workers
        bound = "SLURM_CPUS_PER_TASK" in os.environ  # each process sees processors of its own alone
        return default_num_workers(self.trainer.num_devices if self.trainer and not bound else 1)

    def _batches_done(self) -> int:
        if self.trainer is None:
            return 0
        progress = self.trainer.fit_loop.epoch_loop.batch_progress
        # `total` is right in checkpoints from every hook; the epoch's own count is sometimes reset already and
        # sometimes not.
        return int(progress.total.processed)  # type: ignore[attr-defined]


class ResumableLoader(WorkerLoader):
    """A loader that continues by itself, and says so in the form in which Lightning asks."""

    def state_dict(self) -> dict[str, Any]:
        """Says on what the order depends besides the seed; the position is the trainer's own count."""
        batches = self.batch_sampler
        if not isinstance(batches, TrainBatchSampler):
            raise TypeError(f"{type(batches).__name__} cannot be resumed: use TrainBatchSampler")
        return {"images": batches.num_images, "batch_size": batches.global_batch_size, "seed": batches.seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Warns if the order is no longer that of the checkpoint."""
        now = self.state_dict()
        if state_dict != now:
            L.pytorch.utilities.rank_zero_warn(
                f"the checkpoint was trained with {state_dict}, now the data have {now}: from here on images"
                " come in another order than without the interruption"
            )


def default_num_workers(num_devices: int = 1) -> int:
    """Chooses the number of loading processes for each device, leaving it one processor for itself."""
    affinity = getattr(os, "sched_getaffinity", None)  # respects the share a cluster grants; not on macOS
    processors = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min(8, processors // max(1, num_devices) - 1))


def _check_reducible(layout: Layout, augment: Augmentation, cache: bool) -> None:
    """Refuses `reduced_decode` where it would do nothing, or read other pixels than training without it."""
    if cache:
        raise ValueError(
            "cache and reduced_decode contradict each other, since what is kept is decoded in full: give one of"
            " them"
        )
    if type(augment).of_file is Augmentation.of_file:
        raise ValueError(
            "reduced_decode works with the standard augmentation alone, which says beforehand how small a"
            " photograph becomes: leave train_transforms out, give DeepFashion a scale, or leave reduced_decode"
        )
    if type(layout).read is not Layout.read:
        raise ValueError(
            f"{type(layout).__qualname__} opens photographs in its own way, so they cannot be read at reduced"
            " size: leave reduced_decode"
        )


def _comparable(path: Path) -> str:
    """Writes a path in the one form in which it can be compared."""
    return composed(os.path.normpath(path))


def _start_worker(_: int) -> None:
    cv2.setNumThreads(0)  # the workers themselves are the parallelism

"""A data module of synthetic scenes, and the synthetic twin of any dataset."""

import inspect
import pkgutil
from collections.abc import Mapping
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import TypeGuard, get_args

from rich.progress import track

import segbench.data
from segbench.data.base import SegmentationDataModule, SegmentationDataset, Split
from segbench.data.folder_layout import FolderLayout
from segbench.data.scene import class_names, generate_scene, scene_palette
from segbench.data.spec import DatasetSpec, Layout
from segbench.data.transforms import Transform
from segbench.utils.files import cache_folder, naming, scratch
from segbench.utils.fingerprint import json_hash

_LARGEST = 8192  # pixels of a side; scenes are generated in memory
_VERSION = 1  # counts up when scenes change, so that old caches are not taken for new ones


def write_synthetic(
    root: Path,
    spec: DatasetSpec,
    layout: Layout,
    counts: Mapping[Split, int],
    size: tuple[int, int] = (256, 256),
    seed: int = 0,
) -> None:
    """Writes synthetic scenes as a dataset's own files would lie and be numbered.

    All files appear at once: they are written next to `root`, then renamed.

    Args:
        root: Folder to be made.
        spec: Classes, and how their ids are stored.
        layout: Where files belong.
        counts: Number of images of each split; those to predict get no label.
        size: Height and width of the images.
        seed: Another seed gives other scenes.

    Raises:
        FileExistsError: If `root` holds something already.
        PermissionError: If the folder above cannot be written to.
    """
    root = root.expanduser().absolute()
    if root.is_symlink():  # a folder cannot be renamed to it
        raise FileExistsError(f"{root} is a link: give the folder that it leads to, or another one")
    if root.is_file() or (root.is_dir() and any(root.iterdir())):
        raise FileExistsError(f"{root} is not empty: choose another folder, or remove this one")
    jobs = [(split, i) for split, count in counts.items() for i in range(count)]
    with ExitStack() as stack:
        try:
            root.parent.mkdir(parents=True, exist_ok=True)
            draft = stack.enter_context(scratch(root.parent)) / root.name
            draft.mkdir()
        except OSError as error:  # no permission, a read-only or full disk
            raise PermissionError(
                f"cannot write into {root.parent} ({error.strerror}): choose another folder"
            ) from None
        stack.enter_context(naming(root, draft))
        for number, (split, i) in enumerate(track(jobs, f"Drawing {root.name}", disable=len(jobs) < 50)):
            image, label = generate_scene(number, spec.num_classes, size, seed, spec.ignore_index)
            pair = layout.place(draft, split, i + 1)
            if split == "predict":
                pair = pair._replace(label=None)
            layout.write(pair, image, spec.encode(label))
        names = "".join(f"{name}\n" for name in spec.classes)
        (draft / "classes.txt").write_text(names, encoding="utf-8")
        draft.rename(root)  # fails if another process was faster and `root` is no longer empty


def write_twin(
    dataset: type[SegmentationDataModule],
    root: Path,
    images: int = 8,
    size: tuple[int, int] = (256, 256),
    seed: int = 0,
) -> list[Split]:
    """Writes a dataset's synthetic twin.

    Args:
        dataset: A data module with a spec and a layout of its own.
        root: Folder to be made; an empty one may be there.
        images: Number of images of each split that has files of its own.
        size: Height and width of the images.
        seed: Another seed gives other scenes.

    Returns:
        The splits that were written.

    Raises:
        FileExistsError: If `root` holds something already.
        ValueError: If a number is out of range.
    """
    if images < 1 or min(size) < 8 or max(size) > _LARGEST or seed < 0:
        raise ValueError(
            f"images={images}, size={list(size)}, seed={seed}: give at least 1 image, 8 to {_LARGEST} pixels"
            " and no negative seed"
        )
    counts = dict.fromkeys(own_places(dataset.layout), images)
    write_synthetic(root, dataset.spec, dataset.layout, counts, size, seed)
    return list(counts)


def own_places(layout: Layout) -> list[Split]:
    """Lists the splits that have files of their own; in articles `test` is often val once more."""
    places: dict[Path, Split] = {}
    for split in get_args(Split):
        places.setdefault(layout.place(Path(), split, 1).image, split)
    return list(places.values())


def find_dataset(name: str) -> type[SegmentationDataModule]:
    """Finds a data module whose classes and layout are known without data.

    Args:
        name: Of its file in segbench/data, or its dotted path.

    Returns:
        The class.

    Raises:
        ValueError: If there is none.
    """

    def has_twin(cls: object) -> TypeGuard[type[SegmentationDataModule]]:
        return inspect.isclass(cls) and issubclass(cls, SegmentationDataModule) and hasattr(cls, "spec")

    if "." in name and all(map(str.isidentifier, name.split("."))):
        module, _, attribute = name.rpartition(".")
        try:
            cls = getattr(import_module(module), attribute, None)
        except ImportError as error:
            raise ValueError(f"dataset {name}: {error}") from None
        if not has_twin(cls):
            raise ValueError(f"dataset {name} is not a data module with a spec and a layout of its own")
        return cls
    found: dict[str, type[SegmentationDataModule]] = {}
    for file in pkgutil.iter_modules(segbench.data.__path__):
        module_of = import_module(f"segbench.data.{file.name}")
        for _, cls in inspect.getmembers(module_of, has_twin):
            if cls.__module__ == module_of.__name__:
                found[file.name] = cls
    if name not in found:
        raise ValueError(f"unknown dataset '{name}'; choose {', '.join(found)}, or a dotted path")
    return found[name]


class SyntheticDataModule(SegmentationDataModule):
    """Synthetic scenes, written once to a cache and read as any folder of images."""

    spec = DatasetSpec(tuple(class_names(8)), scene_palette(8))
    layout = FolderLayout(splits={"predict": "test"})

    def __init__(
        self,
        num_classes: int = 8,
        image_size: tuple[int, int] = (256, 256),
        num_images: dict[str, int] | None = None,
        cache_dir: str | None = None,
        img_size: tuple[int, int] = (256, 256),
        batch_size: int = 8,
        num_workers: int | None = None,
        eval_batch_size: int = 1,
        seed: int | None = None,
        scale: tuple[int, int] | None = None,
        train_transforms: list[Transform] | None = None,
        augment: bool = True,
    ) -> None:
        """Sets up the module; nothing is drawn yet.

        Args:
            num_classes: Classes with the background.
            image_size: Height and width of the scenes.
            num_images: Number of scenes of train, val and test.
            cache_dir: Folder for the scenes; by default `$SEGBENCH_CACHE` or `~/.cache/segbench`.
            img_size: Height and width of training crops.
            batch_size: Training images on each device.
            num_workers: Loading processes on each device; by default as many as there are free processors.
            eval_batch_size: Images in a batch of evaluation.
            seed: Decides order and augmentation of training images; null takes `seed_everything`, in Python 0.
                The scenes are always the same.
            scale: (long, short) limits that images are fitted into before they are scaled at random.
            train_transforms: Albumentations transforms in place of the standard ones.
            augment: Change training images at random; false only crops and pads them to `img_size`.

        Raises:
            ValueError: If a split other than train, val and test is asked for.
        """
        self.num_images = {"train": 400, "val": 50, "test": 50} | (num_images or {})
        if len(self.num_images) > 3 or min(self.num_images.values()) < 1 or num_classes < 2:
            raise ValueError(
                f"num_images={num_images}, num_classes={num_classes}: give a positive number for train, val and"
                " test alone, and two classes or more"
            )
        self.image_size = (int(image_size[0]), int(image_size[1]))
        ignore_index = 255 if num_classes <= 255 else 65535
        self.spec = DatasetSpec(tuple(class_names(num_classes)), scene_palette(num_classes), ignore_index)
        fields = [_VERSION, num_classes, self.image_size, sorted(self.num_images.items())]
        name = f"synthetic-{json_hash(fields, 12)}"
        super().__init__(
            cache_folder(cache_dir) / name,
            img_size=img_size,
            batch_size=batch_size,
            num_workers=num_workers,
            eval_batch_size=eval_batch_size,
            seed=seed,
            scale=scale,
            train_transforms=train_transforms,
            augment=augment,
        )

    def prepare_data(self) -> None:
        """Draws the scenes unless they are in the cache.

        Raises:
            PermissionError: If the cache cannot be written to.
        """
        if self.root.is_dir():
            return
        counts: dict[Split, int] = {split: self.num_images[split] for split in ("train", "val", "test")}
        try:
            write_synthetic(self.root, self.spec, self.layout, counts, self.image_size)
        except PermissionError as error:
            raise PermissionError(f"{error}, by --data.init_args.cache_dir or SEGBENCH_CACHE") from None
        except OSError:
            if not self.root.is_dir():  # else another process was faster, with the same scenes
                raise

    def dataset(self, split: Split) -> SegmentationDataset:
        """Lists a split's files, drawing them first if need be."""
        self.prepare_data()
        return super().dataset(split)

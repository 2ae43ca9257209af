"""Everybody's own data: a folder of images, a folder of masks, a table of classes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from segbench.data.base import DatasetSpec, Layout, SegmentationDataModule, Split
from segbench.data.class_files import read_rows, rows_of
from segbench.data.class_table import read_table, training_spec
from segbench.data.folder_layout import FolderLayout
from segbench.data.io.indexed_masks import Reading
from segbench.data.listed_splits import LIST_SUFFIXES, ListedSplits
from segbench.data.scene import class_names, scene_palette
from segbench.data.spec import Color, default_palette
from segbench.data.splits import DrawnSplits
from segbench.data.transforms import Transform

__all__ = ["FolderDataModule", "FolderLayout"]

_SHARES = "--data.init_args.splits '{val: 0.1, test: 0.1}'"


class FolderDataModule(SegmentationDataModule):
    """A dataset described in YAML alone."""

    spec = DatasetSpec(tuple(class_names(8)), scene_palette(8))  # of its synthetic twin
    layout: Layout = FolderLayout()

    def __init__(
        self,
        root: str | Path,
        classes: list[str] | str = "classes.txt",
        palette: list[Color] | None = None,
        ignore_index: int = 255,
        images: str | list[str] = "images/{split}",
        masks: str | list[str] = "masks/{split}",
        splits: dict[str, float | str] | None = None,
        split_seed: int = 0,
        image_suffix: str = "",
        mask_suffix: str = "",
        merge: dict[str, list[str]] | None = None,
        ignore: list[int | str] | None = None,
        indexed_masks: Reading = "auto",
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
        image_prefix: str = "",
        mask_prefix: str = "",
    ) -> None:
        """Sets up the module.

        Args:
            root: Folder of the dataset.
            classes: Lines `name` in the order of ids, `id name`, `R G B name` or `id R G B name`; or a file
                below the root: such lines, CSV with a header, or a list of CVAT, labelme, Ultralytics or COCO.
                Numbered lines of one name are one class.
            palette: RGB colours in the same order; by default distinct ones. Masks may be painted in them.
            ignore_index: Label of pixels without a class.
            images: Folder of images below the root, with `{split}` in it; of several the first that exists.
            masks: Folder of masks, one for each folder of images.
            splits: For train, val, test or predict a folder's name where it is another; or a text file below
                the root for each, of images, or of images and masks; or the shares of val and test, as in
                `{val: 0.1, test: 0.1}`.
            split_seed: Another one draws other shares; training's own seed does not, so that runs of all seeds
                are scored on the same images.
            image_suffix: What image names have after the common part.
            mask_suffix: What mask names have after the common part, such as `_segm`.
            merge: Classes that become one, as in `{vehicle: [car, bus]}`.
            ignore: Names, ids or colours `R G B` in the masks that mean no class.
            indexed_masks: What masks with a palette hold: with `ids` the index is the id, with `colors` its
                colour says the class. `auto` takes the colour where the whole palette consists of colours of
                classes, in another order than theirs, and refuses what may mean either.
            img_size: Height and width of training crops.
            batch_size: Training images on each device.
            num_workers: Loading processes on each device; by default as many as there are free processors.
            eval_batch_size: Images in a batch of evaluation; above 1 only where all have one size.
            seed: Decides order and augmentation of training images; null takes `seed_everything`, in Python 0.
            scale: (long, short) limits that images are fitted into before they are scaled at random.
            train_transforms: Albumentations transforms in place of the standard ones.
            remap: Training ids for ids of the mask files, as in `{11: 255}`.
            augment: Change training images at random; false only crops and pads them to `img_size`.
            exclude: Images to leave out of all splits, as paths below the root.
            cache: Keep decoded files in the cache folder and map them into memory: faster from the second pass
                on, where the set fits into memory or lies on a fast disk.
            reduced_decode: Decode training JPEGs at a half, a quarter or an eighth of their size where a draw
                shrinks them at least as much.
            image_prefix: What image names have before the common part, as in `img_001.jpg` with `mask_001.png`.
            mask_prefix: What mask names have before the common part.

        Raises:
            FileNotFoundError: If the file of class names is missing.
            ValueError: If options contradict each other or the data.
        """
        rows = read_rows(Path(root).expanduser(), classes) if isinstance(classes, str) else rows_of(classes)
        table = read_table(rows, palette)
        self.spec, colors = training_spec(table, merge or {}, ignore or [], ignore_index, remap or {})
        parallel = FolderLayout(
            _as_tuple(images),
            _as_tuple(masks),
            image_suffix=image_suffix,
            mask_suffix=mask_suffix,
            image_prefix=image_prefix,
            mask_prefix=mask_prefix,
            source="other names are given by --data.init_args.images, masks and splits; where all images lie in"
            f" one folder, draw splits by {_SHARES}",
            colors=colors,
            indexed_masks=indexed_masks,
            invented_colors=[entry.color for entry in table] == list(default_palette(len(table))),
        )
        self.layout = _with_splits(parallel, splits or {}, split_seed, Path(root).expanduser())
        super().__init__(
            root,
            img_size=img_size,
            batch_size=batch_size,
            num_workers=num_workers,
            eval_batch_size=eval_batch_size,
            seed=seed,
            scale=scale,
            train_transforms=train_transforms,
            remap=remap,
            augment=augment,
            exclude=exclude,
            cache=cache,
            reduced_decode=reduced_decode,
        )

    def setup(self, stage: str) -> None:
        """Checks the file lists of all splits that the stage needs, and that training has some of its own."""
        if stage == "fit" and isinstance(self.layout, FolderLayout):
            splits: tuple[Split, ...] = ("train", "val", "test")
            folders = {self.layout.folder(self.root, split) for split in splits}
            names = {self.layout.splits.get(split, split) for split in splits}
            said = len(names) == 1  # by the configuration itself
            if len(folders) == 1 and None not in folders and not said:
                raise ValueError(
                    f"{folders.pop()} would be train, val and test at once: draw splits by {_SHARES}, or put"
                    " {split} into --data.init_args.images and masks"
                )
        super().setup(stage)


def _with_splits(files: FolderLayout, splits: Mapping[str, float | str], seed: int, root: Path) -> Layout:
    """Chooses between folders, lists and shares by what is said of the splits."""
    known: dict[str, Split] = {split: split for split in get_args(Split)}
    unknown = sorted(splits.keys() - known.keys())
    if unknown:
        raise ValueError(f"splits: unknown split '{unknown[0]}'; name train, val, test or predict")
    shares = {known[split]: share for split, share in splits.items() if not isinstance(share, str)}
    lists, folders = dict[Split, str](), dict[str, str]()
    for split, name in splits.items():
        if isinstance(name, str):
            is_list = Path(name).suffix.lower() in LIST_SUFFIXES or (root / name).is_file()
            (lists if is_list else folders)[known[split]] = name
    if sum(map(bool, (shares, lists, folders))) > 1:
        raise ValueError(f"splits={dict(splits)} mixes folders, text files and shares: choose one of these")
    if not shares and not lists:
        return replace(files, splits=folders)
    together = replace(files, splits=dict.fromkeys(known, ""))
    return DrawnSplits(together, shares, seed) if shares else ListedSplits(together, lists)


def _as_tuple(folders: str | Sequence[str]) -> tuple[str, ...]:
    return (folders,) if isinstance(folders, str) else tuple(folders)

"""Everybody's own data: a folder of images, a folder of masks, a list of class names."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from segbench.data.base import DatasetSpec, Layout, Pair, SegmentationDataModule, Split
from segbench.data.files import list_files
from segbench.data.spec import Color, default_palette
from segbench.data.transforms import Transform


@dataclass(frozen=True)
class FolderLayout(Layout):
    """Images and masks in parallel folders, matched by name.

    Attributes:
        images: Folders of images relative to the root; `{split}` stands for the split's own. The first that
            exists counts.
        masks: The folder of masks for each folder of images.
        splits: Folder name of a split where it is not the split's name.
        image_suffix: What follows the common name in image files, before the file type.
        mask_suffix: The same in masks, such as `_segm`.
        source: Sentence for who does not have the data.
        new_name: Name of the files that `place` invents.
    """

    images: tuple[str, ...] = ("images/{split}",)
    masks: tuple[str, ...] = ("masks/{split}",)
    splits: Mapping[str, str] = field(default_factory=dict)
    image_suffix: str = ""
    mask_suffix: str = ""
    source: str = ""
    new_name: str = "{split}_{index:06d}"

    def __post_init__(self) -> None:
        if not self.images or len(self.images) != len(self.masks):
            raise ValueError(
                f"images={list(self.images)} and masks={list(self.masks)} must be as many, in pairs"
            )

    def pairs(self, root: Path, split: Split) -> list[Pair]:
        """Finds the files of a split."""
        images, masks = self._folders(root, split)
        photos = self._listed(images, self.image_suffix, "" if images != masks else self.mask_suffix)
        if not photos:
            raise ValueError(f"{images} holds no image: expected {self.tree(root)}")
        labels = self._listed(masks, self.mask_suffix, "") if masks.is_dir() else {}
        found = [Pair(name, path, labels.get(name)) for name, path in photos.items()]
        bare = [pair for pair in found if pair.label is None]
        if bare and split != "predict":
            raise ValueError(
                f"{bare[0].image} has no mask {masks / bare[0].name}{self.mask_suffix}.png, nor have"
                f" {len(bare) - 1} of the other {len(found) - 1} images: add the masks or remove the images"
            )
        lonely = sorted(labels.keys() - photos.keys())
        if lonely:
            warnings.warn(
                f"{labels[lonely[0]]} and {len(lonely) - 1} other masks have no image; left out", stacklevel=2
            )
        return found

    def place(self, root: Path, split: Split, index: int) -> Pair:
        """Says where a new pair belongs."""
        name = self.new_name.format(split=split, index=index)
        folder = self.splits.get(split, split)
        image = root / self.images[0].format(split=folder) / f"{name}{self.image_suffix}.jpg"
        label = root / self.masks[0].format(split=folder) / f"{name}{self.mask_suffix}.png"
        return Pair(name, image, label)

    def tree(self, root: Path) -> str:
        """Describes the expected files."""
        folders = (
            f"{image}/NAME{self.image_suffix}.jpg with {mask}/NAME{self.mask_suffix}.png"
            for image, mask in zip(self.images, self.masks, strict=True)
        )
        names = dict.fromkeys(self.splits.get(split, split) for split in ("train", "val", "test"))
        return f"{' or '.join(folders)} in {root}, {{split}} being {', '.join(names)}"

    def _folders(self, root: Path, split: Split) -> tuple[Path, Path]:
        name = self.splits.get(split, split)
        candidates = [
            (root / image.format(split=name), root / mask.format(split=name))
            for image, mask in zip(self.images, self.masks, strict=True)
        ]
        for images, masks in candidates:
            if images.is_dir():
                return images, masks
        missing = root if not root.is_dir() else candidates[0][0]
        raise FileNotFoundError(
            f"no folder {missing} for split '{split}': expected {self.tree(root)}"
            + (f"; {self.source}" if self.source else "")
        )

    @staticmethod
    def _listed(folder: Path, suffix: str, other_suffix: str) -> dict[str, Path]:
        return {
            name.removesuffix(suffix): path
            for name, path in list_files(folder).items()
            if name.endswith(suffix) and not (other_suffix and name.endswith(other_suffix))
        }


class FolderDataModule(SegmentationDataModule):
    """A dataset described in YAML alone."""

    def __init__(
        self,
        root: str | Path,
        classes: list[str] | str = "classes.txt",
        palette: list[Color] | None = None,
        ignore_index: int = 255,
        images: str | list[str] = "images/{split}",
        masks: str | list[str] = "masks/{split}",
        splits: dict[str, str] | None = None,
        image_suffix: str = "",
        mask_suffix: str = "",
        img_size: tuple[int, int] = (512, 512),
        batch_size: int = 8,
        num_workers: int | None = None,
        eval_batch_size: int = 1,
        seed: int = 0,
        scale: tuple[int, int] | None = None,
        train_transforms: list[Transform] | None = None,
        remap: dict[int, int] | None = None,
        augment: bool = True,
    ) -> None:
        """Sets up the module.

        Args:
            root: Folder of the dataset.
            classes: Names in the order of ids, or a text file below the root with one name per line.
            palette: RGB colours in the same order; by default distinct ones.
            ignore_index: Label of pixels without a class.
            images: Folder of images below the root, with `{split}` in it; of several the first that exists.
            masks: Folder of masks, one for each folder of images.
            splits: Folder name for train, val, test or predict where it is another.
            image_suffix: What image names have after the common part.
            mask_suffix: What mask names have after the common part, such as `_segm`.
            img_size: Height and width of training crops.
            batch_size: Training images on each device.
            num_workers: Loading processes on each device; by default as many as there are free processors.
            eval_batch_size: Images in a batch of evaluation; above 1 only where all have one size.
            seed: Decides order and augmentation of training images.
            scale: (long, short) limits that images are fitted into before they are scaled at random.
            train_transforms: Albumentations transforms in place of the standard ones.
            remap: Training ids for ids of the mask files, as in `{11: 255}`.
            augment: Change training images at random; false only crops and pads them to `img_size`.

        Raises:
            FileNotFoundError: If the file of class names is missing.
        """
        names = read_classes(Path(root).expanduser(), classes) if isinstance(classes, str) else classes
        colors = tuple(palette) if palette else default_palette(len(names))
        self.spec = DatasetSpec(tuple(names), colors, ignore_index)
        self.layout = FolderLayout(
            _as_tuple(images),
            _as_tuple(masks),
            splits or {},
            image_suffix,
            mask_suffix,
            source="other names are given by --data.init_args.images, masks and splits",
        )
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
        )


def read_classes(root: Path, file: str) -> list[str]:
    """Reads class names, one per line; empty lines are passed over.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    path = root / file
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}: give the dataset's by --data.init_args.root DIR")
    if not path.is_file():
        raise FileNotFoundError(
            f"no file {path}: write the class names into it, one per line in the order of their ids, or give"
            " --data.init_args.classes '[sky, road, …]'"
        )
    return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]


def _as_tuple(folders: str | Sequence[str]) -> tuple[str, ...]:
    return (folders,) if isinstance(folders, str) else tuple(folders)

"""Cityscapes as image pairs: JPEGs of 512×256, the image on the left, its coloured label on the right.

Source: https://www.kaggle.com/datasets/dansbecker/cityscapes-image-pairs, 2,975 and 500 pairs, on which the
convolution-free U-Net-like vision transformer was trained to regress the colours. JPEG blurs them: here each
pixel gets the label of the nearest colour among all of Cityscapes' labels, of which 19 are scored.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segbench.data.base import SegmentationDataModule
from segbench.data.cityscapes_classes import CITYSCAPES_SPEC, LABEL_COLORS, nearest_label_ids, paint_label_ids
from segbench.data.io.files import read_image, read_mask, write_image
from segbench.data.io.listing import list_files
from segbench.data.spec import Layout, Pair, Split
from segbench.data.transforms import Transform
from segbench.utils.files import atomic_write, cache_folder
from segbench.visualization.pictures import write_png

_VERSION = 1  # counts up when labels are found otherwise, so that old caches are not taken for new ones
_FOLDERS: dict[Split, str] = {
    "train": "train",
    "val": "val",
    "test": "val",
    "predict": "val",
}  # no test set exists


@dataclass(frozen=True)
class PairsLayout(Layout):
    """`{train,val}/N.jpg`, and a cache of the labels found in them.

    Attributes:
        cache_dir: Folder for the labels; by default `$SEGBENCH_CACHE` or `~/.cache/segbench`.
    """

    cache_dir: str | None = None

    def pairs(self, root: Path, split: Split) -> list[Pair]:
        """Finds the pairs of a split, each in one file; sorted by name as text, so 10 comes before 2."""
        candidates = [root / _FOLDERS[split], root / "cityscapes_data" / _FOLDERS[split]]
        folder = next((folder for folder in candidates if folder.is_dir()), None)
        if folder is None:
            missing = candidates[0] if root.is_dir() else root
            raise FileNotFoundError(
                f"no folder {missing} for split '{split}': expected {self.tree(root)}; get it from"
                " https://www.kaggle.com/datasets/dansbecker/cityscapes-image-pairs, or try --config"
                " experiments/data/synthetic.yaml, which needs no data"
            )
        files = list_files(folder)
        if not files:
            raise ValueError(f"{folder} holds no image: expected {self.tree(root)}")
        return [Pair(name, path, path) for name, path in files.items()]

    def place(self, root: Path, split: Split, index: int) -> Pair:
        """Says where a new pair belongs."""
        path = root / _FOLDERS[split] / f"{index}.jpg"
        return Pair(str(index), path, path)

    def tree(self, root: Path) -> str:
        """Describes the expected files."""
        where = f"in {root} or in its folder cityscapes_data"
        return f"train/N.jpg and val/N.jpg {where}, photograph and label side by side"

    def read(self, pair: Pair) -> tuple[NDArray[np.uint8], NDArray[np.integer] | None]:
        """Opens a file and cuts it in two.

        Returns:
            Image `(H, W, 3)` and label ids `(H, W)`.

        Raises:
            ValueError: If the file is damaged, or cannot be cut in two.
        """
        picture = read_image(pair.image)  # (H, 2W, 3)
        if picture.shape[1] % 2:
            raise ValueError(
                f"{pair.image} is {picture.shape[1]} pixels wide, so photograph and label cannot be its halves:"
                " give the folder of the image pairs"
            )
        photo, colors = (np.ascontiguousarray(half) for half in np.split(picture, 2, axis=1))
        return photo, self._label_ids(colors)

    def write(self, pair: Pair, image: NDArray[np.uint8], mask: NDArray[np.integer]) -> None:
        """Writes image and coloured label side by side."""
        write_image(pair.image, np.concatenate([image, paint_label_ids(mask)], axis=1))

    def _label_ids(self, colors: NDArray[np.uint8]) -> NDArray[np.integer]:
        """Finds the label ids of coloured pixels, or what was found for the very same ones before."""
        recipe = f"{_VERSION} {LABEL_COLORS} {colors.shape}".encode()
        key = hashlib.blake2b(
            colors.tobytes(), key=hashlib.blake2b(recipe).digest(), digest_size=16
        ).hexdigest()
        path = cache_folder(self.cache_dir) / "cityscapes-pairs" / f"{key}.png"
        try:
            return read_mask(path)
        except (OSError, ValueError):  # missing, or damaged
            label_ids = nearest_label_ids(colors)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as draft:
                write_png(str(draft), label_ids)
        except OSError as error:
            if not path.is_file():  # else another process was faster, with the same labels
                raise PermissionError(
                    f"cannot write into {path.parent} ({error.strerror}): choose another folder by"
                    " --data.init_args.cache_dir or SEGBENCH_CACHE"
                ) from None
        return label_ids


class CityscapesPairs(SegmentationDataModule):
    """The image pairs; `root` is cityscapes_data or the folder above. `test` means validation here."""

    spec = CITYSCAPES_SPEC
    layout = PairsLayout()

    def __init__(
        self,
        root: str | Path,
        img_size: tuple[int, int] = (256, 256),
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
        cache_dir: str | None = None,
    ) -> None:
        """Sets up the module; no image is looked for yet.

        Args:
            root: Folder of the dataset.
            img_size: Height and width of training crops; an image has 256×256.
            batch_size: Training images on each device.
            num_workers: Loading processes on each device; by default as many as there are free processors.
            eval_batch_size: Images in a batch of evaluation; all have one size.
            seed: Decides order and augmentation of training images; null takes `seed_everything`, in Python 0.
            scale: (long, short) limits that images are fitted into before they are scaled at random.
            train_transforms: Albumentations transforms in place of the standard ones.
            remap: Training ids for Cityscapes' label ids, on top of the official 19 classes.
            augment: Change training images at random; false only crops and pads them to `img_size`.
            exclude: Images to leave out of all splits, as paths below the root.
            cache: Keep decoded files in the cache folder and map them into memory: faster from the second pass
                on, where the set fits into memory or lies on a fast disk.
            cache_dir: Folder for the labels found; by default `$SEGBENCH_CACHE` or `~/.cache/segbench`.
        """
        self.layout = PairsLayout(cache_dir)
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
        )

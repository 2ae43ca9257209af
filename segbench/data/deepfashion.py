"""DeepFashion-MultiModal: 12,701 images of 750×1101 in 24 classes, as the attention U-Net was trained on.

Source: https://github.com/yumingj/DeepFashion-MultiModal; training pictures as those of the article's code,
https://github.com/dmitri-chouchkov/fashion-segmentation. Two things differ from that code. It drew test images
one by one, in whatever order the disk listed them; here the outfit's id decides, so that no outfit is on two
sides. It padded short pictures with background; here what is padded has no label.
"""

import re
import warnings
from collections.abc import Container, Iterable
from pathlib import Path
from typing import Any, ClassVar

import albumentations as A
import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segbench.data.augment import FILL, Augmentation
from segbench.data.base import SegmentationDataModule
from segbench.data.io.files import read_text, write_image, write_palette_image
from segbench.data.io.listing import list_files
from segbench.data.spec import DatasetSpec, Layout, Pair, Split
from segbench.data.splits import divide, draw
from segbench.data.transforms import Transforms, VariedCrop

_CLASSES = """
background, top, outer, skirt, dress, pants, leggings, headwear, eyeglass, neckwear, belt, footwear, bag, hair,
face, skin, ring, wrist wearing, socks, gloves, necklace, rompers, earrings, tie
"""

# Of https://github.com/yumingj/Text2Human, and of the mask files themselves.
_PALETTE = """
000000 fffafa dcdcdc faebd7 fffacd d3d3d3 4682b4 7fffd4 006400 32cd32 ffff00 f5deb3 ff8c00 ff0000 104e8b 90ee90
32cdae 329bfa a08c58 d58c58 5a8c5a b9d2cd 82a5b4 e18d97
"""

DEEPFASHION_SPEC = DatasetSpec(
    classes=tuple(" ".join(name.split()) for name in _CLASSES.split(",")),
    palette=tuple((color[0], color[1], color[2]) for color in map(bytes.fromhex, _PALETTE.split())),
)

# The release's folder under both names that it goes by, and the two of Text2Human's edition.
_IMAGES = (("images",), ("image",), ("train_images", "test_images"))


def garment(name: str) -> str:
    """Finds what images of one outfit share: the `id_########` in their names, or else the whole name."""
    found = re.search(r"id_\d{8}", name)
    return found[0] if found else name


def split_names(names: Iterable[str]) -> dict[str, Split]:
    """Divides images by garment: about a tenth of the garments for test, a tenth for val.

    Args:
        names: Of the images, in any order.

    Returns:
        Split of each name. Of three garments or more each split gets one at least.
    """
    names = list(names)
    splits = divide(map(garment, names), {"test": 0.1, "val": 0.1})
    return {name: splits[garment(name)] for name in names}


class DeepFashionLayout(Layout):
    """`images/NAME.jpg` and `segm/NAME_segm.png` of all splits; Text2Human's lists count where present."""

    own_splits: ClassVar[bool] = True

    def pairs(self, root: Path, split: Split) -> list[Pair]:
        """Finds the images with parsing that belong to a split; `predict` means test."""
        pairs = self._parsed(root)
        wanted = "test" if split == "predict" else split
        lists = root / "shape_ann"
        if lists.is_dir():
            names = _read_lists(lists, wanted, pairs)
            found = [pair for name, pair in pairs.items() if name in names]
        else:
            splits = split_names(pairs)
            found = [pair for name, pair in pairs.items() if splits[name] == wanted]
        if not found:
            raise ValueError(
                f"{root} has no image for split '{wanted}' among {len(pairs)} with a mask: "
                + (f"{lists} lists others" if lists.is_dir() else "three outfits or more are needed")
            )
        return found

    def place(self, root: Path, split: Split, index: int) -> Pair:
        """Says where a new pair belongs; two images show each outfit.

        `pairs` finds it in its split if there are images of all three, as in the real dataset.
        """
        lower, upper = {"test": (0.0, 0.1), "predict": (0.0, 0.1), "val": (0.1, 0.2)}.get(split, (0.2, 1.0))
        ids = (f"id_{number:08d}" for number in range(index // 2 * 1000, (index // 2 + 1) * 1000))
        one = next(one for one in ids if lower <= draw(one) < upper)  # one in ten at worst
        name = f"WOMEN-Dresses-{one}-01_{('1_front', '2_side')[index % 2]}"
        return Pair(name, root / "images" / f"{name}.jpg", root / "segm" / f"{name}_segm.png")

    def tree(self, root: Path) -> str:
        """Describes the expected files."""
        return f"images/NAME.jpg (or image/NAME.jpg) with segm/NAME_segm.png in {root}"

    def write(self, pair: Pair, image: NDArray[np.uint8], mask: NDArray[np.integer]) -> None:
        """Writes the mask as the release does: a PNG with a palette, whose index is the class."""
        write_image(pair.image, image)
        if pair.label is not None:
            write_palette_image(pair.label, mask.astype(np.uint8), DEEPFASHION_SPEC.palette)

    def _parsed(self, root: Path) -> dict[str, Pair]:
        folders = next((names for names in _IMAGES if (root / names[0]).is_dir()), None)
        if folders is None or not (root / "segm").is_dir():
            missing = root if not root.is_dir() else root / ("images" if folders is None else "segm")
            raise FileNotFoundError(
                f"no folder {missing}: expected {self.tree(root)}; get it from"
                " https://github.com/yumingj/DeepFashion-MultiModal, or try --config"
                " experiments/data/synthetic.yaml, which needs no data"
            )
        found = list_files(root / "segm")
        masks = {name.removesuffix("_segm"): path for name, path in found.items()}
        if len(masks) < len(found):
            twice = next(name for name in masks if name in found and f"{name}_segm" in found)
            raise ValueError(
                f"{found[twice]} and {found[f'{twice}_segm'].name} would both be the mask of {twice}: take one"
                " of them away"
            )
        images = {name: path for folder in folders for name, path in list_files(root / folder).items()}
        lonely = sorted(masks.keys() - images.keys())
        if lonely:
            warnings.warn(
                f"{masks[lonely[0]]} and {len(lonely) - 1} other masks have no image; left out", stacklevel=2
            )
        return {name: Pair(name, path, masks[name]) for name, path in sorted(images.items()) if name in masks}


def _read_lists(folder: Path, wanted: str, known: Container[str]) -> set[str]:
    """Reads the names of one of Text2Human's lists, and holds it against the others."""
    own = folder / f"{wanted}_ann_file.txt"
    lists = {own: _read_list(own)}
    for path in (folder / f"{split}_ann_file.txt" for split in ("train", "val", "test")):
        if path.is_file():
            lists.setdefault(path, _read_list(path))
    for path in lists.keys() - {own}:
        both = sorted(lists[path] & lists[own])
        if both:
            raise ValueError(
                f"{both[0]} and {len(both) - 1} others are in {own} and in {path.name}: take them out of one"
            )
    lost = sorted(name for name in set().union(*lists.values()) if name not in known)
    if lost:
        warnings.warn(
            f"{folder} lists {lost[0]} and {len(lost) - 1} others that have no image or no mask; left out",
            stacklevel=3,
        )
    return lists[own]


def _read_list(path: Path) -> set[str]:
    """Reads the names of one of Text2Human's lists: the first column, without the file type."""
    if not path.is_file():
        raise FileNotFoundError(
            f"no file {path}: add it, or take the folder {path.parent} away for a split by outfit"
        )
    lines = read_text(path).splitlines()
    return {Path(line.split()[0]).stem for line in lines if line.strip()}


class FitWidth(A.DualTransform):  # type: ignore[misc]
    """Resizes image and label to a width, keeping their proportions: 750×1101 becomes 512×751.

    Args:
        width: Pixels of a row.
    """

    def __init__(self, width: int = 512, p: float = 1.0) -> None:
        super().__init__(p=p)
        self.width = width

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Computes the new size as width and height."""
        height, width = params["shape"][:2]
        return {"size": (self.width, max(1, height * self.width // width))}

    def apply(self, img: NDArray[np.uint8], size: tuple[int, int], **_: Any) -> NDArray[np.uint8]:
        """Resizes the image, by Pillow, whose bilinear filter is antialiased."""
        return np.array(Image.fromarray(img).resize(size, Image.Resampling.BILINEAR), np.uint8)

    def apply_to_mask(self, mask: NDArray[np.integer], size: tuple[int, int], **_: Any) -> NDArray[np.integer]:
        """Resizes the label; ids are never mixed."""
        return np.asarray(cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST_EXACT), mask.dtype)


class DeepFashion(SegmentationDataModule):
    """DeepFashion-MultiModal. Training pictures are fitted to the width of `img_size` and cut at any height.

    As in the article, nothing else is changed; with a `scale` they get the standard augmentation instead.
    """

    spec = DEEPFASHION_SPEC
    layout = DeepFashionLayout()

    def default_augment(self, scale: tuple[int, int] | None, augment: bool) -> Augmentation:
        """Builds the article's augmentation."""
        if scale is not None:
            return super().default_augment(scale, augment)
        height, width = self.img_size
        transforms = [
            FitWidth(width),
            VariedCrop(self.img_size, cat_max_ratio=1),
            A.PadIfNeeded(height, width, position="random", fill=FILL, fill_mask=self.ignore_index, p=1.0),
        ]
        return Transforms(transforms, self.seed)

"""Images and masks in parallel folders: the layout of most datasets, published ones and everybody's own."""

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from segbench.data.io.color_masks import count_transparent, ids_of_colors, is_colored
from segbench.data.io.files import read_painted
from segbench.data.io.indexed_masks import Reading, ids_of_indices, read_palette
from segbench.data.io.listing import list_files, subfolders
from segbench.data.io.pixels import is_grey
from segbench.data.spec import Color, Layout, Pair, Split


@dataclass(frozen=True)
class FolderLayout(Layout):
    """Images and masks in parallel folders, matched by name.

    Attributes:
        images: Folders of images relative to the root; `{split}` stands for the split's own. The first that
            exists counts.
        masks: The folder of masks for each folder of images.
        splits: Folder name of a split where it is not the split's name; empty where all are in one folder.
        image_suffix: What follows the common name in image files, before the file type.
        mask_suffix: The same in masks, such as `_segm`.
        invented_colors: Nobody gave these colours, so that grey masks in RGB hold ids.
        image_prefix: What precedes the common name in image files, as in `img_001.jpg` with `mask_001.png`.
        mask_prefix: The same in masks.
        source: Sentence for who does not have the data.
        new_name: Name of the files that `place` invents.
        image_type: And their file type.
        colors: File id of each colour, where masks may be painted in RGB.
        indexed_masks: What a mask with a palette holds; see `segbench.data.io.indexed_masks`.
    """

    images: tuple[str, ...] = ("images/{split}",)
    masks: tuple[str, ...] = ("masks/{split}",)
    splits: Mapping[str, str] = field(default_factory=dict)
    image_suffix: str = ""
    mask_suffix: str = ""
    source: str = ""
    new_name: str = "{split}_{index:06d}"
    image_type: str = ".jpg"
    colors: Mapping[Color, int] = field(default_factory=dict)
    indexed_masks: Reading = "auto"
    invented_colors: bool = False
    image_prefix: str = ""
    mask_prefix: str = ""

    def __post_init__(self) -> None:
        if not self.images or len(self.images) != len(self.masks):
            raise ValueError(
                f"images={list(self.images)} and masks={list(self.masks)} must be as many, in pairs"
            )
        for option, templates in (("images", self.images), ("masks", self.masks)):
            for template in templates:
                # `{split!r:>999999999}` is something else as well: a text of a gigabyte.
                if re.search(r"[{}]", template.replace("{split}", "")):
                    raise ValueError(
                        f"{option}: '{template}' has braces around something else than {{split}}: write"
                        " {split} for the folder of a split, or no braces"
                    )

    def pairs(self, root: Path, split: Split) -> list[Pair]:
        """Finds the files of a split."""
        images, masks = self._folders(root, split)
        photos = self.names(images, self.image_prefix, self.image_suffix)
        if images == masks and (self.mask_prefix or self.mask_suffix):
            both = set(self.names(masks, self.mask_prefix, self.mask_suffix).values())
            photos = {name: path for name, path in photos.items() if path not in both}
        if not photos:
            raise ValueError(f"{images} holds no image: expected {self.tree(root)}")
        labels = self.names(masks, self.mask_prefix, self.mask_suffix) if masks.is_dir() else {}
        found = [Pair(name, path, labels.get(name)) for name, path in photos.items()]
        lonely = sorted(labels.keys() - photos.keys())
        if lonely:
            warnings.warn(
                f"{labels[lonely[0]]} and {len(lonely) - 1} other masks have no image; left out", stacklevel=2
            )
        return found

    def folder(self, root: Path, split: Split) -> Path | None:
        """Finds the folder of a split's images, if it is there."""
        try:
            return self._folders(root, split)[0]
        except FileNotFoundError:
            return None

    def place(self, root: Path, split: Split, index: int) -> Pair:
        """Says where a new pair belongs; splits that share a folder share its files."""
        folder = self.splits.get(split, split)
        first = next(other for other in get_args(Split) if self.splits.get(other, other) == folder)
        if first == "predict" != folder:
            first = "test"  # of a published dataset, without its labels
        name = self.new_name.format(split=first if folder else split, index=index)
        image, label = (
            root / template.format(split=folder) / f"{prefix}{name}{suffix}"
            for template, prefix, suffix in (
                (self.images[0], self.image_prefix, self.image_suffix + self.image_type),
                (self.masks[0], self.mask_prefix, f"{self.mask_suffix}.png"),
            )
        )
        return Pair(name, image, label)

    def tree(self, root: Path) -> str:
        """Describes the expected files."""
        folders = (
            f"{image}/{self.image_prefix}NAME{self.image_suffix}.jpg with"
            f" {mask}/{self.mask_prefix}NAME{self.mask_suffix}.png"
            for image, mask in zip(self.images, self.masks, strict=True)
        )
        names = dict.fromkeys(self.splits.get(split, split) for split in ("train", "val", "test"))
        being = f", {{split}} being {', '.join(names)}" if any(names) else " without {split}"
        return f"{' or '.join(folders)} in {root}{being}"

    def read_ids(self, pair: Pair) -> NDArray[np.integer] | None:
        """Opens a mask; painted ones become ids, also those whose colours are in a palette."""
        if pair.label is None or not self.colors:
            return super().read_ids(pair)
        if not is_colored(pair.label):
            return self._read_indexed(pair, pair.label)
        picture = read_painted(pair.label)
        unseen = count_transparent(pair.label)
        if unseen:
            raise ValueError(
                f"{pair.label}: {unseen} pixels are transparent, which leaves their class open: fill them with"
                " the colour of their class, or one that ignore names, and save without transparency"
            )
        try:
            return ids_of_colors(picture, self.colors)
        except ValueError as error:
            if self.invented_colors and is_grey(picture):
                return super().read_ids(pair)
            raise ValueError(f"{pair.label}: {error}") from None

    def _read_indexed(self, pair: Pair, label: Path) -> NDArray[np.integer] | None:
        index = super().read_ids(pair)
        palette = None if index is None or self.indexed_masks == "ids" else read_palette(label)
        if index is None or palette is None:
            return index
        try:
            return ids_of_indices(index, palette, self.colors, self.indexed_masks)
        except ValueError as error:
            raise ValueError(f"{label}: {error}") from None

    def _folders(self, root: Path, split: Split) -> tuple[Path, Path]:
        name = self.splits.get(split, split)
        candidates = [
            (root / fill(image, name), root / fill(mask, name))
            for image, mask in zip(self.images, self.masks, strict=True)
        ]
        for images, masks in candidates:
            if images.is_dir():
                return images, masks
        missing = root if not root.is_dir() else candidates[0][0]
        there = ", ".join(subfolders(root)[:12])
        raise FileNotFoundError(
            f"no folder {missing} for split '{split}': expected {self.tree(root)}"
            + (f", which holds the folders {there}" if there else "")
            + (f"; {self.source}" if self.source else "")
        )

    @staticmethod
    def names(folder: Path, prefix: str, suffix: str) -> dict[str, Path]:
        """Lists the files of a folder whose names begin and end as given, by what is between."""
        named = ((common_part(name, prefix, suffix), path) for name, path in list_files(folder).items())
        return {name: path for name, path in named if name is not None}


def common_part(name: str, prefix: str, suffix: str) -> str | None:
    """Takes from a name, which may have folders before it, what precedes and follows the common part.

    Returns:
        The common part, its folders before it; None where the name does not begin and end so.
    """
    within, slash, last = name.rpartition("/")
    if not (last.startswith(prefix) and last.endswith(suffix) and len(last) >= len(prefix) + len(suffix)):
        return None
    return within + slash + last[len(prefix) : len(last) - len(suffix)]


def fill(template: str, name: str) -> str:
    """Puts the name of a split's folder into a template; without a name `{split}/images` is `images`."""
    return (template if name else template.replace("{split}/", "")).replace("{split}", name)

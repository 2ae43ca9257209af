"""What is known of a dataset before a file is opened, where its files lie, and what is in them."""

import colorsys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from segbench.data.io.files import read_image, read_mask, write_image
from segbench.utils.printable import CONTROLS, printable

Split = Literal["train", "val", "test", "predict"]
Color = tuple[int, int, int]

FILE_IDS = 1 << 16
"""Ids that a table is made for. Others, such as nodata of -9999 or 4294967295, are looked up one by one."""
_LOWEST, _HIGHEST = -(1 << 31), (1 << 32) - 1  # of the integers in raster files


class _ByteLabels(NamedTuple):
    """Training id of every byte, `unknown` where there is none."""

    table: NDArray[np.uint8]
    unknown: int


@dataclass(frozen=True)
class DatasetSpec:
    """Classes, their colours, and how the ids of label files become training ids.

    Attributes:
        classes: Names in the order of training ids.
        palette: One RGB colour for each class.
        ignore_index: Training id of pixels without a class; no class may have it.
        remap: Training id for each id of the file that does not already mean itself.
        complete: No id of the file means itself, but for `ignore_index`: `remap` names all that may occur.
    """

    classes: tuple[str, ...]
    palette: tuple[Color, ...]
    ignore_index: int = 255
    remap: Mapping[int, int] = field(default_factory=dict)
    complete: bool = False

    def __post_init__(self) -> None:
        if not self.classes or len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes need names, each of them once, got {list(self.classes)}")
        for name in self.classes:
            if CONTROLS.search(name):
                raise ValueError(
                    f"classes: {printable(repr(name))} holds control characters: take them out of the name"
                )
        if len(self.palette) != len(self.classes):
            raise ValueError(f"palette has {len(self.palette)} colours for {len(self.classes)} classes")
        if not self.num_classes <= self.ignore_index < FILE_IDS:
            raise ValueError(
                f"ignore_index={self.ignore_index} with {self.num_classes} classes: choose a number from"
                f" {self.num_classes} to {FILE_IDS - 1}, which is not a class"
            )
        for file_id, label in self.remap.items():
            is_label = 0 <= label < self.num_classes or label == self.ignore_index
            if not (_LOWEST <= file_id <= _HIGHEST and is_label):
                raise ValueError(
                    f"remap {{{file_id}: {label}}}: labels go from 0 to {self.num_classes - 1}, or"
                    f" {self.ignore_index} for no class; ids of files from {_LOWEST} to {_HIGHEST}"
                )

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def dtype(self) -> type[np.uint8] | type[np.uint16]:
        """Smallest type that holds every training id."""
        return np.uint8 if self.ignore_index < 256 else np.uint16

    @property
    def class_ids(self) -> list[int]:
        """Ids of label files that mean a class."""
        inside = np.flatnonzero((self._labels >= 0) & (self._labels != self.ignore_index))
        outside = (i for i, label in self._outside.items() if label != self.ignore_index)
        return sorted([*map(int, inside), *outside])

    @property
    def described_ids(self) -> str:
        """Writes the same for messages."""
        ids = self.class_ids
        if ids == list(range(self.num_classes)):
            return f"0..{self.num_classes - 1}"
        return ", ".join(map(str, ids[:8])) + (", …" if len(ids) > 8 else "")

    @cached_property
    def _labels(self) -> NDArray[np.int32]:
        """Training id of every file id, −1 where there is none."""
        labels = np.full(FILE_IDS, -1, np.int32)
        if not self.complete:
            labels[: self.num_classes] = np.arange(self.num_classes)
        labels[self.ignore_index] = self.ignore_index
        for file_id, label in self.remap.items():
            if 0 <= file_id < FILE_IDS:
                labels[file_id] = label
        return labels

    @cached_property
    def _outside(self) -> dict[int, int]:
        """Training id of the other ids that have one."""
        return {i: label for i, label in self.remap.items() if not 0 <= i < FILE_IDS}

    @cached_property
    def _byte_labels(self) -> "_ByteLabels | None":
        """`_labels` for files of bytes; None where labels need more, or leave no byte to mark unknown ids."""
        free = set(range(256)) - set(range(self.num_classes)) - {self.ignore_index}
        if self.dtype is not np.uint8 or not free:
            return None
        unknown = free.pop()
        labels = self._labels[:256]
        return _ByteLabels(np.where(labels < 0, unknown, labels).astype(np.uint8), unknown)

    @cached_property
    def _file_ids(self) -> NDArray[np.int32]:
        """Smallest file id of every training id, −1 where there is none."""
        file_ids = np.full(FILE_IDS, -1, np.int32)
        known = np.flatnonzero(self._labels >= 0)[::-1]  # the smallest is written last and stays
        file_ids[self._labels[known]] = known
        return file_ids

    def decode(self, array: NDArray[np.integer]) -> NDArray[np.integer]:
        """Turns the ids of a label file into training ids.

        Args:
            array: `(H, W)` integers as the file has them.

        Returns:
            `(H, W)` training ids of type `dtype`.

        Raises:
            ValueError: If an id is neither a class nor remapped.
        """
        if array.dtype == np.uint8 and self._byte_labels is not None:
            label = np.asarray(cv2.LUT(array, self._byte_labels.table), np.uint8)
            if not (label == self._byte_labels.unknown).any():
                return label
        present = present_ids(array).tolist()
        unknown = [i for i in present if (self._labels[i] < 0 if 0 <= i < FILE_IDS else i not in self._outside)]
        if unknown:
            raise ValueError(self._complain(unknown))
        if not present or 0 <= present[0] <= present[-1] < FILE_IDS:
            return np.asarray(self._labels[array], self.dtype)
        label = np.asarray(self._labels[np.where((array < 0) | (array >= FILE_IDS), 0, array)], self.dtype)
        for i, training_id in self._outside.items():
            label[array == i] = training_id
        return label

    def encode(self, label: NDArray[np.integer]) -> NDArray[np.integer]:
        """Turns training ids into ids of a label file; `decode` gives them back.

        Args:
            label: `(H, W)` training ids.

        Returns:
            `(H, W)` uint8, or uint16 where the file's ids need it.

        Raises:
            ValueError: If no id of the file means one of the labels.
        """
        array = self._file_ids[label]
        if array.min(initial=0) < 0:
            lost = sorted({int(i) for i in np.unique(label[array < 0])})
            raise ValueError(f"labels {lost} have no id in the files of this dataset: remap sends it elsewhere")
        return np.asarray(array, np.uint8 if array.max(initial=0) < 256 else np.uint16)

    def _complain(self, unknown: Sequence[int]) -> str:
        remedy = {**(self.remap if len(self.remap) < 32 else {}), **dict.fromkeys(unknown, self.ignore_index)}
        shown = ", ".join(map(str, unknown[:8])) + (", …" if len(unknown) > 8 else "")
        line = f"label {shown} with {self.num_classes} classes ({self.described_ids})"
        if len(unknown) > 32:
            return f"{line}: these look like grey values, not class ids; save one class id per pixel"
        if unknown[0] < 0:
            line += ", and negative numbers are not class ids"
        remap = f"{line}: if that means no class, say so by --data.init_args.remap '{remedy}'"
        if self.num_classes == 2 and len(unknown) == 1:  # masks of 0 and 128, say
            binary = {**remedy, unknown[0]: 1}
            remap += f"; if it is '{self.classes[1]}', by --data.init_args.remap '{binary}'"
        return remap


class Pair(NamedTuple):
    """An image and its label file.

    Attributes:
        name: Unique within the split; folders below the split's own are part of it.
        image: The image.
        label: The mask; `None` where there is none, which only a split to predict may have.
    """

    name: str
    image: Path
    label: Path | None


class Layout(ABC):
    """Where the files of a dataset lie, and how they are opened. The same object also writes synthetic ones.

    Attributes:
        own_splits: The dataset is published without splits, and the layout makes them; a run folder then says
            which image was in which.
    """

    own_splits: ClassVar[bool] = False

    @abstractmethod
    def pairs(self, root: Path, split: Split) -> list[Pair]:
        """Finds the files of a split without opening them.

        Returns:
            At least one pair, sorted by name; without a label where the mask is missing.

        Raises:
            FileNotFoundError: If the split's folder is missing; names the expected tree.
            ValueError: If the split is empty.
        """

    @abstractmethod
    def place(self, root: Path, split: Split, index: int) -> Pair:
        """Says where the files of a new pair belong; `pairs` would find them there."""

    @abstractmethod
    def tree(self, root: Path) -> str:
        """Describes the expected files in one line, for messages."""

    def read(self, pair: Pair) -> tuple[NDArray[np.uint8], NDArray[np.integer] | None]:
        """Opens a pair; a layout whose image and mask are not files of their own says so here.

        Returns:
            Image `(H, W, 3)` uint8 RGB, and ids `(H, W)` as in the files, or None where there are none.

        Raises:
            ValueError: If a file is damaged, or not what it should be.
        """
        return read_image(pair.image), self.read_ids(pair)

    def read_ids(self, pair: Pair) -> NDArray[np.integer] | None:
        """Opens the mask alone; a layout whose masks hold something else than ids says so here and in `write`.

        Returns:
            Ids `(H, W)` as in the file, or None where there is none.

        Raises:
            ValueError: If the file is damaged, or not what it should be.
        """
        return None if pair.label is None else read_mask(pair.label)

    def write(self, pair: Pair, image: NDArray[np.uint8], mask: NDArray[np.integer]) -> None:
        """Writes a pair so that `read` gives it back, as far as JPEG can.

        Args:
            pair: Where to, from `place`.
            image: `(H, W, 3)` RGB.
            mask: `(H, W)` ids of the files, from `DatasetSpec.encode`.
        """
        write_image(pair.image, image)
        if pair.label is not None:
            write_image(pair.label, mask)


def present_ids(array: NDArray[np.integer]) -> NDArray[np.integer]:
    """Lists the different numbers in an array, quickly where they are bytes.

    Returns:
        `(n,)` sorted numbers.
    """
    if array.dtype == np.uint8:
        return np.flatnonzero(cv2.calcHist([array], [0], None, [256], [0, 256]))
    return np.unique(array)


def default_palette(num_classes: int) -> tuple[Color, ...]:
    """Chooses distinct colours, the same ones each time.

    Returns:
        RGB colours whose hues are a golden angle apart, so that neighbours in the list are far apart in hue.
    """
    tones = ((0.62, 0.93), (0.85, 0.70), (0.40, 0.82), (0.75, 0.50))  # saturation and value
    colors: list[Color] = []
    for i in range(num_classes):
        saturation, value = tones[i % len(tones)]
        red, green, blue = colorsys.hsv_to_rgb(i * 0.381966 % 1, saturation, value)
        colors.append((round(255 * red), round(255 * green), round(255 * blue)))
    return tuple(colors)

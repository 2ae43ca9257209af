"""Views of training images and their feature maps on disk: filled once, in parts, read by any number of runs.

A store is a folder. `store.json` says what is in it; `view-V/part-P.bin` holds records of equal size, one for
each image (pixels, label, fp16 maps), and behind them the CRC-32 of each. A part appears whole or not at all:
after a kill the missing parts alone are made, and processes that fill the same store do each other no harm.
"""

import json
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from segbench.data.loading.dataset import Item
from segbench.data.loading.sampling import SampleIndex
from segbench.utils.files import atomic_write
from segbench.utils.fingerprint import json_hash

_CHECK = np.dtype("<u4")
PART_BYTES = 64 << 20  # what a kill may cost, and what filling holds in memory
_ABOUT = (
    "Views of training images and their features, made by `segbench fit` with cache_features; may be deleted."
)


class Part(NamedTuple):
    """Images whose records of one view lie in one file.

    Attributes:
        view: Number of the view.
        first: First image.
        stop: Image behind the last.
    """

    view: int
    first: int
    stop: int


class FeatureStore:
    """The views of one dataset, seen by one encoder."""

    def __init__(self, cache: Path, recipe: dict[str, Any], names: Sequence[str], views: int) -> None:
        """Looks for the store that belongs to a recipe; nothing is written yet.

        Args:
            cache: Folder in which stores lie side by side.
            recipe: All that records depend on, in plain values; another recipe has another store.
            names: Of the images, in the order of their places.
            views: How many views are used. A store may hold more, of a run that used more.

        Raises:
            ValueError: If the store's description is damaged.
        """
        self.fingerprint = json_hash(recipe, 16)
        self.folder = cache / f"features-{self.fingerprint}"
        self.recipe = recipe
        self.names = list(names)
        self.views = views
        self.record: np.dtype[np.void] | None = None
        self._checked: set[int] = set()  # records that this process has read before
        about = self.folder / "store.json"
        if about.is_file():
            try:
                fields = json.loads(about.read_text())["record"]
                if not {kind for _, kind, _ in fields} <= {"|u1", "<u2", "<f2"}:
                    raise ValueError
                self.record = np.dtype([(name, kind, tuple(shape)) for name, kind, shape in fields])
            except (ValueError, KeyError, TypeError):
                raise ValueError(f"{about} is damaged: delete the folder {self.folder}") from None

    def describe(self, item: Item) -> None:
        """Settles the form of records by the first one, and writes it down.

        Args:
            item: Any view with its maps.

        Raises:
            PermissionError: If the folder cannot be written to.
        """
        maps = [(f"map{level}", "<f2", tuple(array.shape)) for level, array in enumerate(item.maps)]
        label = "|u1" if item.label.dtype == torch.uint8 else "<u2"  # ids go up to 65535
        fields = [("image", "|u1", tuple(item.image.shape)), ("label", label, tuple(item.label.shape)), *maps]
        self.record = np.dtype(fields)
        about = {"what": _ABOUT, "images": len(self.names), "record": fields, "recipe": self.recipe}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_write(self.folder / "store.json") as draft:
                draft.write_text(json.dumps(about, indent=2) + "\n")
        except OSError as error:
            raise self._unwritable(error) from None

    @property
    def bytes_per_image(self) -> int:
        """Size of one record with its checksum."""
        return self._form().itemsize + _CHECK.itemsize

    def missing(self, rank: int = 0, world_size: int = 1) -> list[Part]:
        """Lists the parts that are not there, or not whole as after a power failure.

        Args:
            rank: Of a process that takes its share of all parts, there or not: others may write meanwhile.
            world_size: Number of such processes.
        """
        return [part for part in self._parts()[rank::world_size] if not self._is_whole(part)]

    def check_room(self) -> None:
        """Refuses to begin what the disk cannot hold.

        Raises:
            ValueError: If there is too little room.
        """
        needed = sum(part.stop - part.first for part in self.missing()) * self.bytes_per_image
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise ValueError(
                f"cache_features: {self.views} views of {len(self.names)} images need {gigabytes(needed)} more"
                f" in {self.folder}, where {gigabytes(free)} are free: take fewer views, delete old caches"
                " beside it, or name another disk by SEGBENCH_CACHE"
            )

    def write(self, part: Part, items: Sequence[Item]) -> None:
        """Adds a part.

        Args:
            part: From `missing`.
            items: Its images in order.

        Raises:
            ValueError: If views differ in size, or features do not fit into 16 bits.
            PermissionError: If the folder cannot be written to.
        """
        records = np.empty(len(items), self._form())
        for row, item in enumerate(items):
            self._pack(records[row : row + 1], item)
        path = self._path(part)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Not `tofile`, which says nothing where the disk fills up with the last bytes.
            with atomic_write(path) as draft, draft.open("wb") as file:
                file.write(records.view(np.uint8).data)
                file.write(np.array([zlib.crc32(record.tobytes()) for record in records], _CHECK).data)
        except OSError as error:
            raise self._unwritable(error) from None

    def item(self, draw: SampleIndex) -> Item:
        """Reads what training sees at a draw: views take turns, from visit to visit.

        Args:
            draw: Of the stream of training images.

        Returns:
            The item with its maps, in memory of its own.

        Raises:
            ValueError: If the record was damaged after it was written, by a power failure or a bad disk. Its
                part is removed.
        """
        per_part = self._images_per_part()
        first = draw.image - draw.image % per_part
        part = Part(draw.visit % self.views, first, min(first + per_part, len(self.names)))
        # Mapped again each time: microseconds, where open maps of all parts would use up the file handles.
        records = np.memmap(self._path(part), self._form(), "r", shape=(part.stop - part.first,))
        record = records[draw.image - first]
        self._check(part, draw.image, record)
        image, label, *maps = (np.array(record[name]) for name in self._form().names or ())
        wide = label if label.dtype == np.uint8 else label.astype(np.int64)
        return Item(
            torch.from_numpy(image),
            torch.from_numpy(wide),
            self.names[draw.image],
            tuple(map(torch.from_numpy, maps)),
        )

    def neighbours(self) -> int:
        """Counts the stores of other recipes in the same cache."""
        return sum(path != self.folder for path in self.folder.parent.glob("features-*"))

    def _check(self, part: Part, image: int, record: np.void) -> None:
        """Compares a record with its checksum, the first time that this process reads it."""
        number = part.view * len(self.names) + image
        if number in self._checked:
            return
        path, length = self._path(part), part.stop - part.first
        checks = np.memmap(path, _CHECK, "r", length * self._form().itemsize, (length,))
        if zlib.crc32(record.tobytes()) != checks[image - part.first]:
            path.unlink(missing_ok=True)
            raise ValueError(
                f"{path} was damaged after it was written (image {self.names[image]}) and is now removed:"
                " resume the run, or start it again, and it is made again; if that happens often, name another"
                " disk by SEGBENCH_CACHE"
            )
        self._checked.add(number)

    def _form(self) -> np.dtype[np.void]:
        if self.record is None:
            raise ValueError(f"{self.folder} is not there: nothing was encoded yet")
        return self.record

    def _images_per_part(self) -> int:
        return max(1, PART_BYTES // self.bytes_per_image)

    def _parts(self) -> list[Part]:
        step, total = self._images_per_part(), len(self.names)
        return [
            Part(view, first, min(first + step, total))
            for view in range(self.views)
            for first in range(0, total, step)
        ]

    def _path(self, part: Part) -> Path:
        return self.folder / f"view-{part.view:03d}" / f"part-{part.first // self._images_per_part():05d}.bin"

    def _is_whole(self, part: Part) -> bool:
        path = self._path(part)
        return path.is_file() and path.stat().st_size == (part.stop - part.first) * self.bytes_per_image

    def _pack(self, row: NDArray[np.void], item: Item) -> None:
        form = self._form()
        for name, tensor in zip(form.names or (), (item.image, item.label, *item.maps), strict=True):
            if tuple(tensor.shape) != form[name].shape:
                (_, height, width), there = form["image"].shape, tuple(item.image.shape[1:])
                raise ValueError(
                    f"{item.name} comes out of train_transforms as {there[1]}x{there[0]}, others as"
                    f" {width}x{height}: let train_transforms end in a crop and padding"
                )
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise ValueError(
                    f"cache_features: features of {item.name} do not fit into 16 bits; set it to 0"
                )
            row[name] = tensor.numpy()

    def _unwritable(self, error: OSError) -> PermissionError:
        return PermissionError(
            f"cannot write into {self.folder} ({error.strerror}): name another place by SEGBENCH_CACHE"
        )


def gigabytes(number: int) -> str:
    """Spells a number of bytes."""
    return f"{number / 1e9:.2f} GB" if number >= 1e7 else f"{number / 1e6:.2f} MB"

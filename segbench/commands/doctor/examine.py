"""One look at one image and its mask: all that the diagnosis needs to know of them, in a small record."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segbench.data.io.decoding import bits_per_sample
from segbench.data.io.files import read_image
from segbench.data.io.formats import UnsupportedImageError
from segbench.data.io.pixels import DARK_BITS, opened
from segbench.data.spec import Color, Layout, Pair, Split

Fault = Literal[
    "missing mask",
    "damaged image",
    "damaged mask",
    "JPEG mask",
    "transparent mask",
    "colour mask",
    "unreadable",
]

_ORIENTATION = 0x0112  # EXIF tag: 1 is upright, 5 to 8 swap width and height
_ALPHA = {"RGBA", "LA", "PA", "RGBa", "La"}
_MOST_COLORS = 256  # a mask with more colours than this is an image


class Record(NamedTuple):
    """An image and its mask.

    Attributes:
        split: Where it is used.
        image: The image's path below the root.
        label: The mask's path below the root; `None` where there is none.
        size: Width and height in which training sees the image.
        label_size: Width and height of the mask.
        ids: Pixels of each id in the mask file.
        digest: Hash of the image's pixels, whatever the file around them.
        deep: The image has more than 8 bits for each colour.
        dark: Of these bits the upper ones are nearly unused, so that the image is seen nearly black.
        alpha: The image has a transparency channel.
        orientation: The image's EXIF orientation.
        label_orientation: The mask's, which no reader of masks follows.
        palette: Colour that a palette mask gives to each of its indices.
        by_color: These colours, not the indices, say the class.
        colors: Pixels of each colour, where the mask holds colours; the most frequent ones.
        fault: What keeps the pair from being read.
        reason: The same in the reader's words.
    """

    split: Split
    image: str
    label: str | None = None
    size: tuple[int, int] | None = None
    label_size: tuple[int, int] | None = None
    ids: Mapping[int, int] = {}
    digest: str = ""
    deep: bool = False
    dark: bool = False
    alpha: bool = False
    orientation: int = 1
    label_orientation: int = 1
    palette: Mapping[int, Color] = {}
    by_color: bool = False
    colors: Mapping[Color, int] = {}
    fault: Fault | None = None
    reason: str = ""


def examine(layout: Layout, root: Path, split: Split, pair: Pair) -> Record:
    """Reads a pair once; whatever is wrong with it is in the record, never raised.

    Args:
        layout: Opens the files as training does.
        root: Folder of the dataset.
        split: Where the pair is used.
        pair: The files.

    Returns:
        The record.
    """
    label = None if pair.label is None else below(root, pair.label)
    record = _look_at_header(Record(split, below(root, pair.image), label), pair.image)
    try:
        image, mask = layout.read(pair)
    except Exception as error:  # decoders raise all sorts; the other files are still to be read
        return _explain(record, root, pair, error)
    height, width = image.shape[:2]
    pixels = hashlib.blake2b(image.tobytes(), digest_size=16, person=f"{width}x{height}".encode())
    dark = record.deep and 0 < image.max(initial=0) < 2 ** (DARK_BITS - 8)
    record = record._replace(size=(width, height), digest=pixels.hexdigest(), dark=bool(dark))
    if mask is None:
        return record if split == "predict" else record._replace(fault="missing mask")
    if pair.label not in {None, pair.image} and _is_jpeg(pair.label):
        return record._replace(fault="JPEG mask")
    ids = _count(mask)
    record = record._replace(label_size=(mask.shape[1], mask.shape[0]), ids=ids)
    if pair.label in {None, pair.image}:
        return record
    try:
        with opened(pair.label) as file:
            record = record._replace(label_orientation=_orientation(file))
            if file.mode != "P":
                return record
            index = np.asarray(file)
            by_color = index.shape == mask.shape and bool((index != mask).any())
            return record._replace(palette=_palette(file, _count(index)), by_color=by_color)
    except OSError:  # Pillow does not know every TIFF that can be read
        return record


def below(root: Path, path: Path) -> str:
    """Writes a path as users know it: from the dataset's root on, with forward slashes."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def _look_at_header(record: Record, path: Path) -> Record:
    try:
        with opened(path) as image:
            tile = getattr(image, "tile", None)
            raw = tile[0][3] if tile else ""
            raw_mode = str(raw[0] if isinstance(raw, tuple) else raw)  # "RGB;16B" where mode says RGB
            return record._replace(
                deep="16" in raw_mode or image.mode[0] == "I" or bits_per_sample(path) > 8,
                alpha=image.mode in _ALPHA or "transparency" in image.info,
                orientation=_orientation(image),
            )
    except Exception:  # a damaged file, or a TIFF that Pillow does not know; reading it will name the fault
        try:
            return record._replace(deep=path.is_file() and bits_per_sample(path) > 8)
        except OSError:
            return record


def _explain(record: Record, root: Path, pair: Pair, error: Exception) -> Record:
    """Finds out which file of an unreadable pair is to blame."""
    record = record._replace(fault="unreadable", reason=str(error) or type(error).__name__)
    if (
        isinstance(error, OSError) and error.filename
    ):  # not there, or not ours to read: nothing says it is damaged
        return record._replace(reason=f"{error.strerror}: {below(root, Path(os.fsdecode(error.filename)))}")
    try:
        height, width = read_image(pair.image).shape[:2]
    except (UnsupportedImageError, MemoryError) as fault:
        return record._replace(reason=str(fault))
    except Exception:  # as above
        return record._replace(fault="damaged image")
    record = record._replace(size=(width, height))
    if pair.label is None or pair.label == pair.image:
        return record
    if pair.label.suffix.lower() in {".jpg", ".jpeg"} or _is_jpeg(pair.label):
        return record._replace(fault="JPEG mask")
    try:
        with opened(pair.label) as mask:
            mask.load()
            size, mode = mask.size, mask.mode
            see_through = mode == "RGBA" and mask.getchannel("A").getextrema()[0] != 255
            colors = np.asarray(mask.convert("RGB")) if mode != "F" else np.empty((0, 0, 3), np.uint8)
    except Exception:  # as above
        intact = isinstance(error, (UnsupportedImageError, MemoryError))
        return record if intact else record._replace(fault="damaged mask")
    if see_through:
        return record._replace(fault="transparent mask")
    if mode in {"1", "L", "P", "I", "I;16", "I;16B"}:
        return record
    return record._replace(fault="colour mask", label_size=size, colors=_count_colors(colors))


def _is_jpeg(path: Path | None) -> bool:
    """Tells by the first bytes, whatever the file is called."""
    if path is None or not path.is_file():  # such as a link to nowhere
        return False
    with path.open("rb") as file:
        return file.read(3) == b"\xff\xd8\xff"


def _count(mask: NDArray[np.integer]) -> dict[int, int]:
    if mask.dtype == np.uint8:
        counts = np.bincount(mask.ravel(), minlength=256)
        return {int(i): int(counts[i]) for i in np.flatnonzero(counts)}
    ids, counts = np.unique(mask, return_counts=True)
    return {int(i): int(count) for i, count in zip(ids, counts, strict=True)}


def _count_colors(colors: NDArray[np.uint8]) -> dict[Color, int]:
    packed = colors.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)  # (H, W)
    values, counts = np.unique(packed, return_counts=True)
    most = np.argsort(-counts, kind="stable")[:_MOST_COLORS]
    return {
        (int(values[i]) >> 16, int(values[i]) >> 8 & 255, int(values[i]) & 255): int(counts[i]) for i in most
    }


def _orientation(image: Image.Image) -> int:
    return int(image.getexif().get(_ORIENTATION, 1))


def _palette(image: Image.Image, ids: Mapping[int, int]) -> dict[int, Color]:
    colors = image.getpalette("RGB") or []
    return {
        i: (colors[3 * i], colors[3 * i + 1], colors[3 * i + 2]) for i in ids if 0 <= 3 * i < len(colors) - 2
    }

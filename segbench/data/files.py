"""Reading and writing pictures and masks; every error names the file and what to do."""

import io
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
JPEG = frozenset({"JPEG", "MPO"})  # as Pillow names the formats

_LAST_BYTES = {".jpg": b"\xff\xd9", ".jpeg": b"\xff\xd9", ".png": b"IEND"}
# Pillow stretches grey PNGs of 2 and 4 bits to 0..255; class ids must not be.
_STRETCH = {"L;2": 85, "L;4": 17}


def composed(text: str) -> str:
    """Writes letters with their accents as one (NFC); some systems write file names as two (NFD)."""
    return unicodedata.normalize("NFC", text)


def is_jpeg_name(path: Path) -> bool:
    """Tells a JPEG by its suffix."""
    return path.suffix.lower() in {".jpg", ".jpeg"}


def read_text(path: Path) -> str:
    """Reads a text file of names, in Unicode's composed form.

    Raises:
        ValueError: If it is not UTF-8.
    """
    try:
        return composed(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8: save it as UTF-8") from None


def read_image(path: Path) -> NDArray[np.uint8]:
    """Reads a photograph, turned as its EXIF tag says.

    Returns:
        `(H, W, 3)` uint8 RGB.

    Raises:
        ValueError: If the file is damaged or no picture.
    """
    return decode_image(path, path.read_bytes())  # unlike cv2.imread, opens any name on any system


def decode_image(path: Path, data: bytes) -> NDArray[np.uint8]:
    """Does the same with what was read already; the path is for its suffix and messages."""
    return decode_colors(path, data, cv2.IMREAD_COLOR_RGB)


def decode_colors(path: Path, data: bytes, flags: int) -> NDArray[np.uint8]:
    """Does the same in any of OpenCV's ways that give three channels."""
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error:  # more pixels than it accepts, say
        image = None
    if image is None or not _is_whole(path, data):
        raise ValueError(f"{path} is damaged or cut short, or no picture: copy it anew, or take it away")
    return np.asarray(image, np.uint8)


def read_painted(path: Path) -> NDArray[np.uint8]:
    """Reads a mask painted in colours as it is stored: as with ids, no EXIF tag turns it.

    Returns:
        `(H, W, 3)` uint8 RGB.

    Raises:
        ValueError: If the file is damaged or no picture.
    """
    return decode_colors(path, path.read_bytes(), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)


def read_mask(path: Path) -> NDArray[np.integer]:
    """Reads a mask; in a palette PNG the index is the id, whatever its colour.

    Returns:
        `(H, W)` ids as the file has them: uint8, uint16 or int32.

    Raises:
        ValueError: If the file is damaged, a JPEG, or holds colours instead of ids.
    """
    if is_jpeg_name(path):
        raise ValueError(f"{path}: JPEG changes class ids; save masks as PNG")
    try:
        return decode_mask(path, path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path} is damaged or cut short ({error}): copy it anew") from None


def decode_mask(path: Path, data: bytes) -> NDArray[np.integer]:
    """Does the same with what was read already; the path is for messages."""
    if _is_grey_png(data):  # OpenCV gives other values, or other ids, in all other cases
        ids = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if ids is not None and ids.ndim == 2 and _LAST_BYTES[".png"] in data[-64:]:
            return np.asarray(ids)
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.format in JPEG:
                raise ValueError(
                    f"{path}: JPEG changes class ids, and that is what the file holds, whatever its name;"
                    " save masks as PNG"
                )
            mode = image.mode
            stretch = _STRETCH.get(str(image.tile[0][3]), 1) if image.tile else 1
            array = np.asarray(image)
    except (OSError, SyntaxError, UnidentifiedImageError) as error:
        raise ValueError(f"{path} is damaged or cut short ({error}): copy it anew") from None
    if array.ndim != 2 or array.dtype.kind not in "bui":
        raise ValueError(
            f"{path} holds colours or fractions (mode {mode}), not class ids: save it as a grey or palette PNG"
            " with one id per pixel"
        )
    if array.dtype == bool:
        return array.astype(np.uint8)
    return array // np.uint8(stretch) if stretch > 1 else array


def write_image(path: Path, image: NDArray[np.integer], jpeg_quality: int = 95) -> None:
    """Writes an RGB picture `(H, W, 3)`, or a grey one `(H, W)` of 8 or 16 bits, and makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if image.ndim == 3:
        image = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), np.uint8)
    # OpenCV grumbles at the option elsewhere.
    options = [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality] if is_jpeg_name(path) else []
    encoded, data = cv2.imencode(path.suffix, image, options)
    if not encoded:
        raise ValueError(f"{path}: OpenCV cannot write {path.suffix}")
    path.write_bytes(data.tobytes())


def write_palette_image(path: Path, ids: NDArray[np.uint8], palette: Sequence[Sequence[int]]) -> None:
    """Writes a PNG `(H, W)` of palette indices, which viewers show in colour, and makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colors = [value for color in palette for value in color]
    image = Image.fromarray(ids)
    image.putpalette(colors + [0] * (768 - len(colors)))  # mode P, indices as they were; 255 must have a colour
    image.save(path, "PNG")


def _is_grey_png(data: bytes) -> bool:
    """Tells whether a file is a PNG of one channel, 8 or 16 bits deep, without a palette."""
    header = data[:26]
    is_png = header.startswith(b"\x89PNG\r\n\x1a\n") and header[12:16] == b"IHDR"
    return is_png and header[24:] in (b"\x08\0", b"\x10\0")  # depth, then 0 for grey


def _is_whole(path: Path, data: bytes) -> bool:
    """Tells whether the file ends as it should: OpenCV 4 fills the missing part with grey, and says nothing."""
    mark = _LAST_BYTES.get(path.suffix.lower())
    if mark is None or mark in data[-64:]:
        return True
    try:  # cameras append other data after the mark
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except (OSError, SyntaxError):
        return False
    return True

"""Reading and writing pictures and masks; every error names the file and what to do."""

import unicodedata
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segbench.data.io.decoding import decode_image, decode_mask
from segbench.data.io.formats import JPEG_SUFFIXES


def composed(text: str) -> str:
    """Writes letters with their accents as one (NFC); some systems write file names as two (NFD)."""
    return unicodedata.normalize("NFC", text)


def is_jpeg_name(path: Path) -> bool:
    """Tells a JPEG by its suffix."""
    return path.suffix.lower() in JPEG_SUFFIXES


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
    """Reads an image, turned as its EXIF tag says.

    Returns:
        `(H, W, 3)` uint8 RGB.

    Raises:
        ValueError: If the file is damaged, not an image, or has no single meaning as one.
    """
    return decode_image(path, path.read_bytes())


def read_painted(path: Path) -> NDArray[np.uint8]:
    """Reads a mask painted in colours as it is stored: as with ids, no EXIF tag turns it.

    Returns:
        `(H, W, 3)` uint8 RGB.

    Raises:
        ValueError: As in `read_image`.
    """
    return decode_image(path, path.read_bytes(), painted=True)


def read_mask(path: Path) -> NDArray[np.integer]:
    """Reads a mask; in a palette PNG the index is the id, whatever its colour.

    Returns:
        `(H, W)` ids as the file has them.

    Raises:
        ValueError: If the file is damaged, in a format that does not keep ids, or holds colours instead of ids.
    """
    if is_jpeg_name(path):
        raise ValueError(f"{path}: JPEG changes class ids; save masks as PNG")
    return decode_mask(path, path.read_bytes())


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

"""Pixels out of files of all formats: exactly, or an error that names the file, the reason and what to do.

JPEG is decoded by simplejpeg: it wraps the same libjpeg-turbo as OpenCV and turns its warnings into errors,
whereas OpenCV and Pillow return something for a file whose middle is missing. OpenCV decodes PNG and WebP,
tifffile TIFF, Pillow the rest.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import ImageOps, UnidentifiedImageError, features

from segbench.data.io import tiff
from segbench.data.io.formats import (
    DamagedImageError,
    Format,
    UnsupportedImageError,
    format_of,
    is_lossy,
)
from segbench.data.io.jpeg import checked_jpeg
from segbench.data.io.pixels import ORIENTATION, Pixels, check_size, is_grey, opened, to_rgb, turned
from segbench.data.io.png import check_png

READER = 2
"""Counts up when a sound file gives other pixels than before, so that no cache returns the old ones."""

_UNCOMMON = "Could not determine subsampling"
_NOT_BY_TURBOJPEG = {"CMYK", "YCCK", _UNCOMMON}
# libjpeg, Pillow's codecs and OpenCV say it in words.
_NO_MEMORY = re.compile(r"(?i)insufficient memory|out of memory|failed to allocate")
_EXIF_WITHIN = 1 << 20  # bytes of a JPEG in which its EXIF block begins


def decode_image(path: Path, data: bytes, reduction: int = 1, painted: bool = False) -> NDArray[np.uint8]:
    """Decodes an image.

    Args:
        path: For messages.
        data: The file.
        reduction: By how much libjpeg divides the size of a JPEG: 1, 2, 4 or 8.
        painted: It is a mask in colours, which must be exact, and no EXIF tag turns it.

    Returns:
        `(H, W, 3)` uint8 RGB.

    Raises:
        DamagedImageError: If the file is damaged, cut short, or not an image.
        UnsupportedImageError: If what it holds has no single meaning as an RGB image.
        MemoryError: If the image does not fit into memory.
    """
    with _naming(path):
        match format_of(data):
            case "JPEG":
                image: Pixels = _decode_jpeg(data, reduction, not painted)
            case "PNG":
                header = check_png(data)
                check_size(header.width, header.height)
                image = _by_opencv(data, not painted)
            case "WebP" if not _is_animated_webp(data):
                image = _by_opencv(data, not painted)
            case "TIFF":
                image = tiff.read_colors(data)
            case kind:
                image = _by_pillow(data, kind, not painted)
        if painted and image.dtype == np.uint16:
            image = _exact_bytes(np.asarray(image, np.uint16))
        return to_rgb(path, image)


def decode_mask(path: Path, data: bytes) -> NDArray[np.integer]:
    """Decodes a mask.

    Args:
        path: For messages.
        data: The file.

    Returns:
        `(H, W)` ids as stored; of a palette the indices.

    Raises:
        DamagedImageError: If the file is damaged, cut short, or not an image.
        UnsupportedImageError: If the format does not keep ids, or the file does not hold one for each pixel.
        MemoryError: If the mask does not fit into memory.
    """
    with _naming(path):
        kind = format_of(data)
        if is_lossy(data):
            raise UnsupportedImageError(
                f"holds a lossy {kind}, whatever its name, which changes class ids: save masks as PNG"
            )
        if kind == "TIFF":
            return tiff.read_ids(data)
        if kind == "PNG":
            header = check_png(data)
            check_size(header.width, header.height)
            if header.color == 0 and header.bits >= 8:  # OpenCV expands the others
                ids = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
                if ids is not None and ids.ndim == 2:
                    return np.asarray(ids)
        return _ids_by_pillow(data, kind)


def bits_per_sample(path: Path) -> int:
    """Reads from a header how many bits each colour has; 8 where that is unknown."""
    with path.open("rb") as file:
        start = file.read(26)
    try:
        if format_of(start) == "PNG":
            return start[24]
        return tiff.bits_per_sample(path.read_bytes()) if format_of(start) == "TIFF" else 8
    except Exception:  # a damaged file: decoding it says more
        return 8


def jpeg_size(data: bytes) -> tuple[int, int] | tuple[()]:
    """Reads height and width of a JPEG that can be reduced, before EXIF turns it; empty for all others."""
    try:
        height, width, color_space = _jpeg_header(data)
    except ValueError:  # no JPEG, or a damaged one: decoding it says more
        return ()
    return () if color_space in _NOT_BY_TURBOJPEG else (height, width)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Adds the file to errors, and tells the kinds apart: decoders raise all sorts."""
    try:
        yield
    except UnsupportedImageError as error:
        raise UnsupportedImageError(f"{path} {error}") from None
    except Exception as error:
        if isinstance(error, Warning):  # which the user has turned into an error
            raise
        if isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
            raise MemoryError(
                f"{path} does not fit into memory while it is decoded: use fewer loading processes"
                " (num_workers), or split it into tiles"
            ) from None
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, UnidentifiedImageError):  # whose message names an object in memory
            reason = "the format is unknown, or its header makes no sense"
        raise DamagedImageError(
            f"{path} is damaged or cut short, or not an image ({reason}): copy it again, or leave it out"
        ) from None


def _decode_jpeg(data: bytes, reduction: int, upright: bool) -> NDArray[np.uint8]:
    """Decodes a JPEG; where libjpeg warns, data are missing or make no sense.

    A few missing bytes may leave no trace: the format has no checksum.
    """
    try:
        height, width, color_space = _jpeg_header(data)
    except ValueError as error:
        if _UNCOMMON not in str(error):
            raise
        color_space = _UNCOMMON
    if color_space in _NOT_BY_TURBOJPEG:  # turbojpeg does not convert them, and knows few ways to subsample
        with opened(data) as file:
            file.load()  # which notices that it is cut short
        return np.asarray(_by_opencv(data, upright), np.uint8)
    check_size(width, height)
    # The smallest of libjpeg's sizes (eighths) that is not below these.
    image = checked_jpeg(data, -(-height // reduction), -(-width // reduction))
    return turned(image, _orientation(data) if upright else 1)


def _jpeg_header(data: bytes) -> tuple[int, int, str]:
    try:
        height, width, color_space, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except KeyError:  # of a colour space that turbojpeg has not come to
        raise ValueError("the header is cut short") from None
    return height, width, color_space


def _orientation(data: bytes) -> int:
    if data.find(b"Exif\0", 0, _EXIF_WITHIN) < 0:  # takes a hundredth of the time of opening it by Pillow
        return 1
    try:
        with opened(data) as image:
            return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged EXIF data: the pixels may be sound
        return 1


def _by_opencv(data: bytes, upright: bool) -> Pixels:
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_ANYDEPTH | (0 if upright else cv2.IMREAD_IGNORE_ORIENTATION)
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if image is None:
        raise ValueError("OpenCV cannot decode it")
    return image  # type: ignore[return-value]


def _by_pillow(data: bytes, kind: Format | None, upright: bool) -> Pixels:
    _need_codec(kind)
    with opened(data) as image:
        if kind != "HEIF" and getattr(image, "n_frames", 1) > 1:  # a HEIF has a primary image
            raise UnsupportedImageError("is animated: save the frame that is meant as an image")
        image.load()
        if upright:
            ImageOps.exif_transpose(image, in_place=True)
        if image.mode == "F":
            raise UnsupportedImageError(
                "holds floating-point values: scale them to 0..255 and save them as PNG"
            )
        if image.mode[0] == "I":
            return np.asarray(image).astype(np.uint16)
        return np.asarray(image.convert("RGB"))


def _ids_by_pillow(data: bytes, kind: Format | None) -> NDArray[np.integer]:
    with opened(data) as image:
        if getattr(image, "n_frames", 1) > 1:
            raise UnsupportedImageError("is animated: save the frame that is meant as a PNG mask")
        mode: str = image.mode
        tile = getattr(image, "tile", None)
        decoder, raw = (tile[0][0], tile[0][3]) if tile else ("", "")
        array = np.asarray(image)
    if mode in {"RGB", "RGBA", "LA"} and "16" not in str(raw) and is_grey(array):
        array = array[..., 0]  # one id per pixel, which an image editor wrote three times
    if array.ndim != 2 or array.dtype.kind not in "bui":
        raise UnsupportedImageError(
            f"holds colours or fractions (mode {mode}), not class ids: save it as a grey or palette PNG with"
            " one id per pixel"
        )
    if array.dtype == bool:
        return array.astype(np.uint8)
    # Pillow stretches grey PNGs of 2 and 4 bits, and all PNMs, to the full range; class ids must not be.
    if kind == "PNG" and raw in {"L;2", "L;4"}:
        return np.asarray(array // np.uint8(85 if raw == "L;2" else 17))
    if kind == "PNM" and decoder.startswith("ppm"):
        largest, full = int(raw[-1]), 255 if mode == "L" else 65535
        return np.asarray(np.rint(array * (largest / full)), np.uint8 if largest < 256 else np.uint16)
    return array


def _exact_bytes(colors: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Makes bytes of colours in 16 bits, where the upper half of each value says all."""
    upper, lower = colors >> 8, colors & 255
    exact = (lower == upper) | (lower == 0)
    if not exact.all():
        raise UnsupportedImageError(
            f"holds colours of 16 bits, such as the value {colors[~exact][0]}, which may mean any colour of 8"
            " bits: save the mask with 8 bits"
        )
    return upper.astype(np.uint8)


def _need_codec(kind: Format | None) -> None:
    """Says what is missing where Pillow cannot read a format as it is installed here."""
    if kind == "HEIF":
        try:
            import pillow_heif
        except ImportError:
            raise UnsupportedImageError(
                "is a HEIF image, which needs pillow-heif: pip install 'segbench[heif]', or convert it to JPEG"
            ) from None
        pillow_heif.register_heif_opener()
    if kind == "AVIF" and not features.check("avif"):
        raise UnsupportedImageError("is an AVIF image: pip install 'pillow>=11.3', or convert it to JPEG")
    if kind == "JPEG 2000" and not features.check("jpg_2000"):
        raise UnsupportedImageError("is a JPEG 2000 image, which Pillow cannot read here: convert it to PNG")


def _is_animated_webp(data: bytes) -> bool:
    return data[12:16] == b"VP8X" and bool(data[20] & 2)

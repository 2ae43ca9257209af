"""What readers of all formats share: limits, orientations, bytes out of 16 bits, and opening by Pillow."""

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from lightning_utilities.core.rank_zero import rank_zero_only
from numpy.typing import NDArray
from PIL import Image

from segbench.data.io.formats import MOST_PIXELS, UnsupportedImageError

ORIENTATION = 0x0112
"""Tag in EXIF and TIFF: 1 is upright, 5 to 8 swap width and height."""

# What cameras write; the mirrored ones are rare.
_ROTATIONS = {3: cv2.ROTATE_180, 6: cv2.ROTATE_90_CLOCKWISE, 8: cv2.ROTATE_90_COUNTERCLOCKWISE}
_SENSORS = (8, 10, 12, 14)
DARK_BITS = _SENSORS[-1]
"""16-bit values that fill no more than the bits of common sensors are seen nearly black."""

_opening = threading.Lock()
_warned: set[str] = set()

Pixels = NDArray[np.uint8] | NDArray[np.uint16]


@contextmanager
def opened(data: bytes | Path) -> Iterator[Image.Image]:
    """Opens an image by Pillow, under our limit instead of Pillow's own, which masks of slides exceed.

    Args:
        data: The file, or its path.

    Yields:
        The image, of which only the header has been read.

    Raises:
        UnsupportedImageError: If it claims more pixels than `MOST_PIXELS`.
    """
    with _opening:  # the limit is a variable of the module, so that threads must take turns
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(io.BytesIO(data) if isinstance(data, bytes) else data)
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    with image:
        check_size(*image.size)
        yield image


def check_size(width: int, height: int, bands: int = 1) -> None:
    """Refuses a file that claims more than is decoded, before memory is reserved for it.

    Raises:
        UnsupportedImageError: If it does.
    """
    if width * height * max(1, bands / 4) > MOST_PIXELS:
        raise UnsupportedImageError(
            f"has {width}x{height} = {width * height:,} pixels, more than the limit of {MOST_PIXELS:,}:"
            " split it into tiles"
        )


def turned(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turns pixels `(H, W, …)` upright that an orientation tag describes; unknown values change nothing."""
    if orientation in _ROTATIONS and array.dtype in (np.uint8, np.uint16):  # a third of the time of NumPy
        return np.asarray(cv2.rotate(array, _ROTATIONS[orientation]))
    if orientation in {5, 6, 7, 8}:
        array = array.swapaxes(0, 1)
    rows, columns = orientation in {3, 4, 7, 8}, orientation in {2, 3, 6, 7}
    return np.ascontiguousarray(array[:: -1 if rows else 1, :: -1 if columns else 1])


def to_rgb(path: Path, array: Pixels) -> NDArray[np.uint8]:
    """Makes bytes of 16 bits, the upper ones, and three channels of one.

    Args:
        path: For the warning if the upper bits are nearly empty.
        array: `(H, W)` or `(H, W, 3)`.

    Returns:
        `(H, W, 3)` uint8.
    """
    if array.dtype == np.uint16:
        top = int(array.max(initial=0))
        if 0 < top < 2**DARK_BITS:
            _warn_of_dark(path, top)
        array = (array >> 8).astype(np.uint8)
    return np.asarray(cv2.cvtColor(array, cv2.COLOR_GRAY2RGB) if array.ndim == 2 else array, np.uint8)


def dark_reason(top: int) -> str:
    """Says what is wrong with 16-bit values whose largest is `top`, and how to fix it."""
    bits = next(bits for bits in _SENSORS if top < 2**bits)
    return (
        f"16-bit values of at most {top} of 65535, so that the image is nearly black: where the sensor has"
        f" {bits} bits, multiply the values by {2 ** (16 - bits)} and save the images again"
    )


def _warn_of_dark(path: Path, top: int) -> None:
    """Warns once in each process."""
    if "dark" not in _warned:
        _warned.add("dark")
        if not getattr(rank_zero_only, "rank", 0):  # Lightning sets it
            warnings.warn(f"{path} has {dark_reason(top)} (others may be alike)", stacklevel=2)


def is_grey(picture: NDArray[np.integer]) -> bool:
    """Returns whether a picture is grey and opaque; of two or four channels the last is alpha.

    Args:
        picture: `(H, W, 2…4)`, of 8 bits.
    """
    channels = picture.shape[2]
    if channels % 2 == 0 and (picture[..., -1] != 255).any():
        return False
    return channels == 2 or all(np.array_equal(picture[..., 0], picture[..., i]) for i in (1, 2))

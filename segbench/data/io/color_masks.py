"""Masks painted in colours: each colour, exactly as it is, means one id."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segbench.data.io.files import is_jpeg_name
from segbench.data.io.formats import UnsupportedImageError, is_lossy
from segbench.data.io.pixels import opened
from segbench.data.spec import Color

_SHOWN = 4  # colours that one line has room for


def is_colored(path: Path) -> bool:
    """Tells a mask in RGB from ids, grey or behind a palette; what cannot be opened is not coloured either."""
    if is_jpeg_name(path):  # no colour comes out of it as it went in
        return False
    try:
        with path.open("rb") as file:
            if is_lossy(file.read(256)):
                return False
        with opened(path) as image:
            return image.mode in {"RGB", "RGBA"}
    except (OSError, SyntaxError, UnsupportedImageError):
        return False


def count_transparent(path: Path) -> int:
    """Counts the pixels of a coloured mask through which something else would show, if only in part."""
    with opened(path) as image:
        return int(np.count_nonzero(np.asarray(image.getchannel("A")) < 255)) if image.mode == "RGBA" else 0


def ids_of_colors(picture: NDArray[np.uint8], colors: Mapping[Color, int]) -> NDArray[np.integer]:
    """Looks up the id of each pixel's colour.

    Args:
        picture: `(H, W, 3)` RGB.
        colors: Id of each known colour.

    Returns:
        `(H, W)` ids, uint8 or uint16.

    Raises:
        ValueError: If a colour is unknown; names it, and how many pixels have it.
    """
    codes = _codes(np.array(list(colors), np.uint8))  # (n,)
    order = np.argsort(codes)
    codes, ids = codes[order], np.array(list(colors.values()))[order]
    pixels = _codes(picture)  # (H, W)
    place = np.searchsorted(codes, pixels).clip(max=len(codes) - 1)
    lost = codes[place] != pixels
    if lost.any():
        raise ValueError(_complain(pixels[lost]))
    return np.asarray(ids.astype(np.uint8 if ids.max() < 256 else np.uint16)[place])


def color_names(colors: Sequence[Color]) -> str:
    """Lists colours for messages, the first few of them."""
    names = [" ".join(map(str, color)) for color in dict.fromkeys(colors)]
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")


def _codes(colors: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Makes one number of each colour `(…, 3)`."""
    red, green, blue = (colors[..., channel].astype(np.int32) for channel in range(3))
    return np.asarray((red << 16) + (green << 8) + blue, np.int32)


def _complain(pixels: NDArray[np.int32]) -> str:
    codes, counts = np.unique(pixels, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    found = [(code >> 16, code >> 8 & 255, code & 255) for code in codes[order].tolist()]
    names = [" ".join(map(str, color)) for color in found]
    line = f"colour {names[0]} in {counts[order[0]]} pixels" + (
        f", and {len(names) - 1} others in {counts[order[1:]].sum()}," if len(names) > 1 else ""
    )
    if len(names) > 32:
        return f"{line} mean no class: colours were mixed by smoothing or JPEG; save masks without either"
    listed = ", ".join(names[:_SHOWN])
    return (
        f"{line} mean no class, or two: give each a line 'R G B name' in --data.init_args.classes, or say that"
        f" they mean none by --data.init_args.ignore+='[{listed}]'"
    )

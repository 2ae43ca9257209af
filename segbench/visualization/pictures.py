"""Label maps as pictures: colours, overlays, and panels with a legend. Arrays are RGB uint8."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segbench.utils.files import naming
from segbench.utils.fingerprint import short_hash

Image = NDArray[np.uint8]
Labels = NDArray[np.integer]

VOID_COLOR = (0, 0, 0)
WRONG_COLOR = (220, 30, 30)
RIGHT_COLOR = (235, 235, 235)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_LONGEST = 200  # bytes of a file name, of which file systems take 255 with what is put around it


def colorize(labels: Labels, palette: Sequence[Sequence[int]]) -> Image:
    """Paints each label with its colour.

    Args:
        labels: `(H, W)`; values that are not class ids, the ignore index included, become black.
        palette: `K` RGB colours.

    Returns:
        `(H, W, 3)`.
    """
    table = np.array([*palette, VOID_COLOR], dtype=np.uint8)
    index = np.where((labels >= 0) & (labels < len(palette)), labels, len(palette))
    return np.asarray(table[index], dtype=np.uint8)


def index_image(labels: Labels, num_classes: int) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Makes a label map writable as a grey PNG.

    Args:
        labels: `(H, W)`.
        num_classes: `K`.

    Returns:
        `(H, W)`, 8 bits where that holds every class, otherwise 16.
    """
    return labels.astype(np.uint8) if num_classes <= 256 else labels.astype(np.uint16)


def overlay(image: Image, colors: Image, opacity: float = 0.5) -> Image:
    """Lays colours over an image.

    Args:
        image: `(H, W, 3)`.
        colors: `(H, W, 3)`.
        opacity: Share of the colours, in [0, 1].

    Returns:
        `(H, W, 3)`.
    """
    return np.asarray(cv2.addWeighted(image, 1 - opacity, colors, opacity, 0), dtype=np.uint8)


def errors(labels: Labels, target: Labels, ignore_index: int) -> Image:
    """Marks wrong pixels red, right ones light, ignored ones black.

    Args:
        labels: `(H, W)` predicted.
        target: `(H, W)` true.
        ignore_index: Of `target`.

    Returns:
        `(H, W, 3)`.
    """
    picture = np.where((labels == target)[..., None], RIGHT_COLOR, WRONG_COLOR).astype(np.uint8)
    picture[target == ignore_index] = VOID_COLOR
    return picture


def heat(values: NDArray[np.floating]) -> Image:
    """Paints shares, dark for 0 and bright for 1.

    Args:
        values: `(H, W)` in [0, 1].

    Returns:
        `(H, W, 3)`.
    """
    grey = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    return np.asarray(cv2.applyColorMap(grey, cv2.COLORMAP_INFERNO)[..., ::-1], dtype=np.uint8)


def patchwork(regions: Labels) -> Image:
    """Paints each region with a colour of its own, neighbours in number far apart in hue.

    Args:
        regions: `(H, W)` ids from 0; whatever is below becomes black.

    Returns:
        `(H, W, 3)`.
    """
    golden_angle = 180 * 0.618034  # of the 180 hues of OpenCV
    ids = np.arange(int(regions.max(initial=-1)) + 1)
    hues = np.stack([ids * golden_angle % 180, 110 + 90 * (ids % 2), 230 - 60 * (ids % 3)], -1)
    table = cv2.cvtColor(hues[None].astype(np.uint8), cv2.COLOR_HSV2RGB)[0] if len(ids) else np.empty((0, 3))
    return np.asarray(np.array([*table, VOID_COLOR], np.uint8)[np.maximum(regions, -1)], dtype=np.uint8)


def legend(names: Sequence[str], palette: Sequence[Sequence[int]], width: int) -> Image:
    """Draws a coloured box and the name of each class, as many to a row as fit.

    Args:
        names: Of the classes to show.
        palette: Their colours.
        width: Of the picture, in pixels.

    Returns:
        `(H, width, 3)`.
    """
    box, line, scale = 12, 20, 0.42
    widths = [box + 10 + cv2.getTextSize(name, _FONT, scale, 1)[0][0] + 10 for name in names]
    places, x, y = [], 4, 0
    for entry in widths:
        if x + entry > width and x > 4:
            x, y = 4, y + line
        places.append((x, y))
        x += entry
    picture = np.full((y + line + 4, width, 3), 255, dtype=np.uint8)
    for name, color, (x, y) in zip(names, palette, places, strict=True):
        rgb = tuple(int(value) for value in color)
        cv2.rectangle(picture, (x, y + 5), (x + box, y + 5 + box), rgb, -1)
        cv2.rectangle(picture, (x, y + 5), (x + box, y + 5 + box), (90, 90, 90), 1)
        cv2.putText(picture, name, (x + box + 5, y + 15), _FONT, scale, (0, 0, 0), 1, cv2.LINE_AA)
    return picture


def panel(tiles: Sequence[tuple[str, Image]], names: Sequence[str], palette: Sequence[Sequence[int]]) -> Image:
    """Sets titled pictures of one size side by side above a legend.

    Args:
        tiles: Title and picture `(H, W, 3)` of each.
        names: Classes of the legend.
        palette: Their colours.

    Returns:
        One picture.
    """
    gap, head = 4, 20
    columns = []
    for title, tile in tiles:
        column = np.full((tile.shape[0] + head, tile.shape[1] + gap, 3), 255, dtype=np.uint8)
        column[head:, : tile.shape[1]] = tile
        cv2.putText(column, title, (4, 14), _FONT, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
        columns.append(column)
    row = np.concatenate(columns, axis=1)[:, :-gap]
    return np.concatenate([row, legend(names, palette, row.shape[1])])


def shrink(picture: NDArray[Any], longest: int, nearest: bool = False) -> NDArray[Any]:
    """Scales a picture down until its longer side fits; never up.

    Args:
        picture: `(H, W)` or `(H, W, 3)`.
        longest: Pixels of the longer side.
        nearest: For label maps, which must not be interpolated.

    Returns:
        The picture, of the same type.
    """
    height, width = shrunk_size(picture.shape[:2], longest)
    if (height, width) == picture.shape[:2]:
        return picture
    method = cv2.INTER_NEAREST if nearest else cv2.INTER_AREA
    return np.asarray(cv2.resize(picture, (width, height), interpolation=method))


def shrunk_size(size: Sequence[int], longest: int) -> tuple[int, int]:
    """Computes the size to which `shrink` scales.

    Args:
        size: Height and width of a picture.
        longest: As in `shrink`.

    Returns:
        `(height, width)`.
    """
    height, width = size
    factor = min(1.0, longest / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


def file_name(name: str) -> str:
    """Turns the name of an image into a file name that cannot lead out of a folder.

    Args:
        name: As a dataset has it, folders and all.

    Returns:
        Folders set apart by two underscores, anything unusual replaced by one; very long names end in a hash.
    """
    file = re.sub(r"[^\w.-]+", "_", name.strip("/.").replace("/", "__"))
    if len(file.encode()) <= _LONGEST:
        return file
    start = file.encode()[: _LONGEST - 17].decode(errors="ignore")
    return f"{start}-{short_hash(name, 16)}"


def write_png(path: str, picture: NDArray[Any]) -> None:
    """Writes a PNG, of any path that the file system takes.

    Args:
        path: Where to.
        picture: `(H, W, 3)` RGB, or `(H, W)` uint8 or uint16.

    Raises:
        OSError: If the file cannot be written.
    """
    pixels = picture[..., ::-1] if picture.ndim == 3 else picture
    # Not cv2.imwrite: it fails without a word, and on paths that are not ASCII on some systems.
    encoded = cv2.imencode(".png", np.ascontiguousarray(pixels))[1]
    with naming(Path(path)):
        Path(path).write_bytes(encoded.tobytes())

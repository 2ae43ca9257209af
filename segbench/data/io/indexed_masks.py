"""Masks with a palette: whether the index of a pixel is its id, or its colour says the class.

Tools store painted masks as indexed files to save space, and order the palette as they like: by first
appearance, by frequency, or with only the colours that a file shows. Others store ids, and add any palette so
that viewers show something. The rule:

- The index is the id where no index shown has the colour of another class, or the palette is a grey ramp. An
  id that no class has, such as 255, may have a class's colour as well: short palettes are filled up with one.
- The colour decides where all colours shown are those of classes, but in another order, and the palette holds
  no colour of another kind.
- Whatever else contradicts the colours of the classes is refused, since both readings are possible.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segbench.data.io.color_masks import color_names, ids_of_colors
from segbench.data.io.pixels import opened
from segbench.data.spec import Color, present_ids

Reading = Literal["auto", "ids", "colors"]


class Palette(NamedTuple):
    """The palette of a file.

    Attributes:
        colors: Of each index; indices beyond have none.
        transparent: Indices that are not opaque.
    """

    colors: tuple[Color, ...]
    transparent: frozenset[int]


def read_palette(path: Path) -> Palette | None:
    """Reads the palette from a file's header; None where there is none, or the file cannot be read."""
    with path.open("rb") as file:
        header = file.read(26)
    if header[12:16] == b"IHDR" and header[25:26] != b"\3":
        return None
    try:
        with opened(path) as image:
            if image.mode != "P" or image.palette is None:
                return None
            swatch = Image.new("P", (1, 1))  # the image itself would be decoded for it
            swatch.putpalette(image.palette.palette, image.palette.rawmode or image.palette.mode)
            seen_through = image.info.get("transparency", b"")
    except (OSError, SyntaxError, ValueError):
        return None
    values = np.array(swatch.getpalette("RGB"), int).reshape(-1, 3)  # (n, 3)
    transparent = (
        {seen_through}
        if isinstance(seen_through, int)
        else {i for i, alpha in enumerate(seen_through) if alpha < 255}
    )
    return Palette(tuple((r, g, b) for r, g, b in values.tolist()), frozenset(transparent))


def ids_of_indices(
    index: NDArray[np.integer], palette: Palette, colors: Mapping[Color, int], reading: Reading = "auto"
) -> NDArray[np.integer]:
    """Decides what the indices of a file mean.

    Args:
        index: `(H, W)` as stored.
        palette: Of the file.
        colors: Id of each colour of a class.
        reading: Take the index or the colour in any case; `auto` follows the rule above.

    Returns:
        `(H, W)` ids.

    Raises:
        ValueError: If index and colour are both possible, or a colour means no class.
    """
    if reading == "ids":
        return index
    present = [int(i) for i in present_ids(index)]
    shown = {i: palette.colors[i] for i in present if 0 <= i < len(palette.colors)}
    if reading == "auto":
        moved = [i for i in shown if _contradicts(i, palette.colors, colors)]
        if not moved or all(color == (i, i, i) for i, color in enumerate(palette.colors)):
            return index
        foreign = [shown[i] for i in shown if shown[i] not in colors] or _unused(palette.colors, shown, colors)
        filled = [i for i in moved if _is_filling(i, palette.colors)]
        if foreign or filled or len(shown) < len(present):
            raise ValueError(_complain(shown, (filled or moved)[0], colors, foreign, bool(filled)))
    if len(shown) < len(present):
        raise ValueError(f"index {max(present)} is beyond the palette, which has {len(palette.colors)} colours")
    if see_through := sorted(palette.transparent & shown.keys()):
        raise ValueError(
            f"index {see_through[0]} of the palette is transparent, which leaves its class open: save the mask"
            " without transparency, or set indexed_masks to ids if the index is the class id"
        )
    table = np.zeros((max(present, default=0) + 1, 3), np.uint8)
    for i, color in shown.items():
        table[i] = color
    return ids_of_colors(table[index], colors)


def _contradicts(i: int, palette: Sequence[Color], colors: Mapping[Color, int]) -> bool:
    """Returns whether an index has the colour of another class, whose own index has another one."""
    home = colors.get(palette[i], i)
    return home != i and (i in colors.values() or palette[home : home + 1] != (palette[i],))


def _is_filling(i: int, palette: Sequence[Color]) -> bool:
    """Returns whether an index lies in a run of a colour that the palette has before."""
    return palette.index(palette[i]) < i and palette[i] in {palette[i - 1], *palette[i + 1 : i + 2]}


def _unused(palette: Sequence[Color], shown: Mapping[int, Color], colors: Mapping[Color, int]) -> list[Color]:
    """Finds colours of no class that no pixel has, without the filling at the end."""
    end = len(palette)
    while end > 1 and palette[end - 1] == palette[-1] and end - 1 not in shown:
        end -= 1
    return [color for i, color in enumerate(palette[:end]) if i not in shown and color not in colors]


def _complain(
    shown: Mapping[int, Color],
    moved: int,
    colors: Mapping[Color, int],
    foreign: Sequence[Color],
    filled: bool,
) -> str:
    why = "repeats it, as to fill up" if filled else "has no colour for others"
    if foreign:
        why = f"also holds {color_names(foreign)}, which belong to no class"
    return (
        f"index {moved} of the palette has the colour {color_names([shown[moved]])} of the class with id"
        f" {colors[shown[moved]]}, but the palette {why}: set indexed_masks to ids if the index is the class"
        " id, or to colors if the colour says the class"
    )

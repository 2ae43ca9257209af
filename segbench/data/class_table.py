"""Classes of somebody's own masks: which id or colour means which class, what is merged, what is ignored."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from segbench.data.class_files import Row, without_ignore
from segbench.data.spec import FILE_IDS, Color, DatasetSpec, default_palette

_COLOR = re.compile(r"(\d+)[\s,]+(\d+)[\s,]+(\d+)")


class Entry(NamedTuple):
    """One label of the mask files.

    Attributes:
        name: Several entries may have one: they are one class.
        file_id: As grey and palette masks have it.
        color: As RGB masks have it.
    """

    name: str
    file_id: int
    color: Color


def read_table(rows: Sequence[Row], palette: Sequence[Color] | None = None) -> list[Entry]:
    """Completes the rows of a list, all of one kind: with ids or without, with colours or without.

    Args:
        rows: Where they name no id, it is the place in the list, from 0.
        palette: Colours, where rows name none; by default distinct ones.

    Returns:
        One entry for each class.

    Raises:
        ValueError: If rows differ in kind, an id or name occurs twice, or the number of colours is another.
    """
    rows = without_ignore(rows)
    if not rows:
        raise ValueError("classes: there is none: name them, one per line in the order of their ids")
    _check_alike(rows)
    if rows[0].color and palette:
        raise ValueError("classes and palette both give colours: take them out of one")
    if palette and len(palette) != len(rows):
        raise ValueError(f"palette has {len(palette)} colours for {len(rows)} classes")
    colors = palette or default_palette(len(rows))
    seen: set[int | str] = set()
    entries = []
    for i, row in enumerate(rows):
        entry = Entry(row.name, i if row.file_id is None else row.file_id, _as_color(row.color or colors[i]))
        # Several ids or colours may be one class, but not several lines of its name alone.
        key: int | str = row.name if row.file_id is None and row.color is None else entry.file_id
        if key in seen:
            what = f"'{key}'" if isinstance(key, str) else f"id {key}"
            raise ValueError(f"{row.place}: {what} occurs twice: each class needs its own")
        seen.add(key)
        entries.append(entry)
    return entries


def _check_alike(rows: Sequence[Row]) -> None:
    first = rows[0]
    for row in rows:
        if (row.file_id is None, row.color is None) == (first.file_id is None, first.color is None):
            continue
        numbered, bare = (first, row) if row.file_id is None else (row, first)
        if numbered.color is None and bare.color is None:
            raise ValueError(
                f"{row.place}: '{numbered.file_id} {numbered.name}' has an id and '{bare.name}' has none: give"
                " ids to all lines or to none, and write a name that begins with a number as '2-wheeler'"
            )
        raise ValueError(
            f"{row.place}: '{first.name}' and '{row.name}' must be all 'name', 'id name', 'R G B name' or"
            " 'id R G B name'"
        )


def training_spec(
    table: Sequence[Entry],
    merge: Mapping[str, Sequence[str]],
    ignore: Sequence[str | int],
    ignore_index: int = 255,
    taken: Collection[int] = (),
) -> tuple[DatasetSpec, dict[Color, int]]:
    """Numbers the classes that are left once some were merged and others ignored.

    Args:
        table: From `read_table`.
        merge: Names of old classes for a new one, which takes the place and colour of the first of them.
        ignore: Names, ids or colours `R G B` that mean no class; ids and colours need not be in the table.
        ignore_index: Training id of pixels without a class.
        taken: Ids that will mean something else yet, by `remap`.

    Returns:
        The spec, and the file id of each colour that means one thing only.

    Raises:
        ValueError: If a name is unknown, merged twice, or nothing is left.
    """
    merged = _merged({entry.name for entry in table}, merge)
    ignored_ids = {item for item in ignore if isinstance(item, int)}
    ignored_colors = {
        _as_color(list(map(int, found.groups()))) for item in ignore if (found := _COLOR.fullmatch(str(item)))
    }
    ignored_names = {str(item) for item in ignore if not isinstance(item, int) and not _COLOR.fullmatch(item)}
    _check_known(ignored_names, {entry.name for entry in table} | set(merge), "ignore")
    remap = dict.fromkeys(ignored_ids, ignore_index)
    classes: dict[str, int] = {}
    palette: list[Color] = []
    colors: dict[Color, int] = {}
    ambiguous: set[Color] = set()
    for entry in table:
        name = merged.get(entry.name, entry.name)
        if {entry.name, name} & ignored_names or entry.file_id in ignored_ids or entry.color in ignored_colors:
            remap[entry.file_id] = ignore_index
        else:
            if name not in classes:
                classes[name] = len(classes)
                palette.append(entry.color)
            remap[entry.file_id] = classes[name]
        if remap[colors.setdefault(entry.color, entry.file_id)] != remap[entry.file_id]:
            ambiguous.add(entry.color)
    # An ignored colour needs an id that no entry has; the highest is the least likely in a mask of ids.
    used = {entry.file_id for entry in table} | set(taken)
    nothing = next(i for i in (ignore_index, *reversed(range(FILE_IDS))) if i not in used)
    if ignored_colors:
        remap[nothing] = ignore_index
    if not classes:
        raise ValueError(f"classes: none is left of {len(table)}: ignore fewer than {list(ignore)}")
    plain = all(file_id == label for file_id, label in remap.items())
    spec = DatasetSpec(tuple(classes), tuple(palette), ignore_index, {} if plain else remap, not plain)
    known = {color: file_id for color, file_id in colors.items() if color not in ambiguous}
    return spec, dict.fromkeys(ignored_colors, nothing) | known


def _merged(names: set[str], merge: Mapping[str, Sequence[str]]) -> dict[str, str]:
    new_names: dict[str, str] = {}
    for new, members in merge.items():
        _check_known(set(members), names, f"merge: {new}")
        for member in members:
            if member in new_names:
                raise ValueError(
                    f"merge: '{member}' goes to '{new_names[member]}' and to '{new}': take one out"
                )
            new_names[member] = new
    return new_names


def _check_known(names: set[str], known: set[str], option: str) -> None:
    unknown = sorted(names - known)
    if unknown:
        raise ValueError(f"{option}: unknown class '{unknown[0]}'; classes are {', '.join(sorted(known))}")


def _as_color(values: Sequence[int]) -> Color:
    red, green, blue = (int(value) for value in values)
    if max(red, green, blue) > 255 or min(red, green, blue) < 0:
        raise ValueError(f"colour {red} {green} {blue}: each of red, green and blue goes from 0 to 255")
    return red, green, blue

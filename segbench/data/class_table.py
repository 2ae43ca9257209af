"""Classes of somebody's own masks: which id or colour means which class, what is merged, what is ignored."""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from segbench.data.files import read_text
from segbench.data.spec import FILE_IDS, Color, DatasetSpec, default_palette

_LINE = re.compile(r"((?:\d+[\s,]+)*)(.*)")
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


def read_lines(root: Path, file: str) -> list[str]:
    """Reads a table of classes, one per line; empty lines are passed over.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not UTF-8.
    """
    path = root / file
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}: give the dataset's by --data.init_args.root DIR")
    if not path.is_file():
        raise FileNotFoundError(
            f"no file {path}: write the class names into it, one per line in the order of their ids, or give"
            " --data.init_args.classes '[sky, road, …]'"
        )
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def read_table(lines: Sequence[str], palette: Sequence[Color] | None = None) -> list[Entry]:
    """Understands lines `name`, `id name`, `R G B name` or `id R G B name`, all of one kind.

    Args:
        lines: Where they name no id, it is the line's number, from 0.
        palette: Colours, where lines name none; by default distinct ones.

    Returns:
        One entry for each line.

    Raises:
        ValueError: If lines differ in kind, an id occurs twice, or the number of colours is another.
    """
    numbers, names = [], []
    for line in lines:
        if line.startswith("#"):
            raise ValueError(f"classes: '{line}' begins with '#', but a line is a class: take comments out")
        if re.search(r"[^\s\d,].*(,\s*\d|\s\d+\s+\d+\s+\d+$)", line):
            raise ValueError(
                f"classes: '{line}' has numbers behind the name: write 'R G B name', as in '128 64 128 road'"
            )
        if re.match(r"\d+\s*[:;=.)]\s*[^\s\d]", line):
            raise ValueError(f"classes: '{line}' has a sign behind the id: write 'id name', as in '7 road'")
        found = _LINE.fullmatch(line)
        numbers.append([int(number) for number in re.findall(r"\d+", found[1])] if found else [])
        names.append(found[2] if found else line)
    kinds = {len(row) for row in numbers}
    if kinds == {0, 1}:
        numbered, bare = (lines[[len(row) for row in numbers].index(count)] for count in (1, 0))
        raise ValueError(
            f"classes: '{numbered}' has an id and '{bare}' has none: give ids to all lines or to none, and"
            " write a name that begins with a number as '2-wheeler'"
        )
    if len(kinds) != 1 or not kinds <= {0, 1, 3, 4} or not all(names):
        raise ValueError(
            f"classes: {list(lines)[:4]}… must be all 'name', 'id name', 'R G B name' or 'id R G B name'"
        )
    (kind,) = kinds
    if kind >= 3 and palette:
        raise ValueError("classes and palette both give colours: take them out of one")
    if palette and len(palette) != len(names):
        raise ValueError(f"palette has {len(palette)} colours for {len(names)} classes")
    colors = [row[-3:] for row in numbers] if kind >= 3 else palette or default_palette(len(names))
    file_ids = [row[0] for row in numbers] if kind in {1, 4} else list(range(len(names)))
    twice = {file_id for file_id in file_ids if file_ids.count(file_id) > 1}
    if twice or (kind == 0 and len(set(names)) < len(names)):
        raise ValueError(
            f"classes: {f'id {min(twice)}' if twice else 'a name'} occurs twice: each needs its own"
        )
    return [Entry(*row) for row in zip(names, file_ids, map(_as_color, colors), strict=True)]


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
        raise ValueError(f"{option}: there is no class '{unknown[0]}'; classes are {', '.join(sorted(known))}")


def _as_color(values: Sequence[int]) -> Color:
    red, green, blue = (int(value) for value in values)
    if max(red, green, blue) > 255 or min(red, green, blue) < 0:
        raise ValueError(f"colour {red} {green} {blue}: each of red, green and blue goes from 0 to 255")
    return red, green, blue

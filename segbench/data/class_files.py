"""Lists of classes as people and tools write them, row by row: names, and ids or colours where they are given.

Lines of text, CSV with a header (such as ADE20K's objectInfo150.txt), CVAT's labelmap.txt, labelme's
labels.txt, and YAML or JSON with `names` (Ultralytics), `categories` (COCO) or ids and names (Hugging Face's
id2label). What is none of these is refused with its line: a list that is misread shifts the names of all
classes.
"""

import csv
import json
import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from segbench.data.io.files import read_text
from segbench.utils.yaml_files import check_yaml

_LINE = re.compile(r"(-?\d+[\s,]+)?((?:\d+[\s,]+)*)(.*)")
_CVAT = re.compile(r"(.+):(\d+),(\d+),(\d+):[^:]*:[^:]*")
_CVAT_HEADER = re.compile(r"#\s*label:color_rgb:parts:actions")
_HEX = re.compile(r"#([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})")
_IGNORE = "__ignore__"  # labelme's id -1

_NAMES = {"name", "names", "class", "classes", "class_name", "classname", "category", "categories"} | {
    *("label", "labels", "label_name")
}
_IDS = {"id", "idx", "index", "class_id", "classid", "label_id", "category_id", "value", "pixel_value", "code"}
_CHANNELS = ({"r", "red"}, {"g", "green"}, {"b", "blue"})
_COLORS = {"color", "colour", "rgb", "color_rgb", "hex"}


class Row(NamedTuple):
    """One class of a list.

    Attributes:
        name: As written.
        file_id: Where it is given.
        color: RGB, where it is given.
        place: Where it stands, for messages.
    """

    name: str
    file_id: int | None = None
    color: tuple[int, ...] | None = None
    place: str = "classes"


def read_rows(root: Path, file: str) -> list[Row]:
    """Reads a list of classes from a file.

    Args:
        root: Folder of the dataset.
        file: Path below it.

    Returns:
        One row for each class.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is not UTF-8, or it is not certain what it says.
    """
    path = root / file
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}: give the dataset's by --data.init_args.root DIR")
    if not path.is_file():
        raise FileNotFoundError(
            f"no file {path}: write the class names into it, one per line in the order of their ids, or give"
            " --data.init_args.classes '[sky, road, …]'"
        )
    text = read_text(path)
    try:
        if path.suffix.lower() in {".yaml", ".yml"}:
            check_yaml(text, str(path))
            return _rows_of_tree(yaml.safe_load(text), str(path))
        if path.suffix.lower() == ".json":
            return _rows_of_tree(json.loads(text), str(path))
    except (yaml.YAMLError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {' '.join(str(error).split())}") from None
    lines = [(f"{path}, line {i}", line.strip()) for i, line in enumerate(text.split("\n"), 1)]
    lines = [(place, line) for place, line in lines if line]
    if len(lines) > 1 and lines[0][1].lower() in _NAMES:
        raise ValueError(f"{lines[0][0]}: '{lines[0][1]}' looks like a header, not a class: take it out")
    rows = _rows_of_columns(lines) or _rows_of_cvat(lines) or _rows_of_lines(lines)
    if len(lines) == 1 and re.search(r"[,;]", rows[0].name):
        raise ValueError(f"{lines[0][0]}: '{rows[0].name}' looks like several names: write one per line")
    return rows


def rows_of(lines: Sequence[str]) -> list[Row]:
    """Understands lines `name`, `id name`, `R G B name` or `id R G B name`.

    Raises:
        ValueError: If a line may mean something else.
    """
    return _rows_of_lines([("classes", line.strip()) for line in lines])


def _rows_of_lines(lines: Sequence[tuple[str, str]]) -> list[Row]:
    ends = [re.fullmatch(r"(\D.*?)\s+(\d+)", line) for _, line in lines]
    if len(lines) > 1 and all(ends) and len({found[1] for found in ends if found}) == len(lines):
        raise ValueError(
            f"{lines[0][0]}: '{lines[0][1]}', like all lines, has a number behind the name: if that is the id,"
            " write 'id name', as in '7 road'"
        )
    counts = [line.isdecimal() for _, line in lines]
    if any(counts) and not all(counts):
        place, line = lines[counts.index(True)]
        raise ValueError(f"{place}: '{line}' is a number without a name: write 'id name', or take it out")
    rows = []
    for place, line in lines:
        _refuse(place, line)
        found = _LINE.fullmatch(line)
        first, more, name = found.groups() if found else ("", "", line)
        numbers = [int(number) for number in re.findall(r"-?\d+", (first or "") + more)]
        if len(numbers) not in {0, 1, 3, 4} or not name or "\t" in name:
            raise ValueError(
                f"{place}: '{line}' must be 'name', 'id name', 'R G B name' or 'id R G B name'; other columns"
                " need a first line that names them, as in 'id,name'"
            )
        file_id = numbers[0] if len(numbers) in {1, 4} else None
        rows.append(Row(name, file_id, tuple(numbers[-3:]) if len(numbers) > 1 else None, place))
    return rows


def _refuse(place: str, line: str) -> None:
    """Refuses lines that belong to another notation, or hold more than a class."""
    if line.startswith("#"):
        raise ValueError(f"{place}: '{line}' begins with '#', but a line is a class: take comments out")
    if re.fullmatch(r"""(["']).*\1""", line):
        raise ValueError(f"{place}: {line} stands in quotes, which would be part of the name: take them out")
    if re.search(r"\s#[0-9a-fA-F]{6}$", line):
        raise ValueError(
            f"{place}: '{line}' has a colour behind the name: write 'R G B name', as in '0 0 0 sky'"
        )
    if re.search(r"[^\s\d,-].*(,\s*\d+\s*,|\s\d+\s+\d+\s+\d+$)", line):
        raise ValueError(
            f"{place}: '{line}' has numbers behind the name: write 'R G B name', as in '128 64 128 road'"
        )
    if re.search(r"[^\s\d,-].*[,\t]\s*\d+$", line):
        raise ValueError(f"{place}: '{line}' has a number behind the name: write 'id name', as in '7 road'")
    if re.match(r"-?\d+\s*[:;=.)]\s*[^\s\d]", line):
        raise ValueError(f"{place}: '{line}' has a sign behind the id: write 'id name', as in '7 road'")
    if re.match(r"[\[{]|- ", line) or re.search(r"[,;:]$", line):
        raise ValueError(f"{place}: '{line}' is not a plain name: write one name per line, without signs")


def _rows_of_cvat(lines: Sequence[tuple[str, str]]) -> list[Row]:
    """Understands `name:R,G,B:parts:actions`; no rows where that is not what lines are."""
    has_header = bool(lines) and _CVAT_HEADER.fullmatch(lines[0][1]) is not None
    body = lines[1:] if has_header else lines
    found = [(place, line, _CVAT.fullmatch(line)) for place, line in body]
    if not has_header and not all(match for _, _, match in found):
        return []
    rows = []
    for place, line, match in found:
        if match is None:
            raise ValueError(f"{place}: '{line}' is not 'label:color_rgb:parts:actions', as line 1 says")
        rows.append(Row(match[1], None, tuple(map(int, match.groups()[1:])), place))
    return rows


def _rows_of_columns(lines: Sequence[tuple[str, str]]) -> list[Row]:
    """Understands columns that the first line names; no rows where it does not."""
    if len(lines) < 2:
        return []
    place, header = lines[0]
    delimiter = next((sign for sign in "\t,;" if sign in header), None)
    if delimiter is None:
        return []
    table = list(csv.reader((line for _, line in lines), delimiter=delimiter, skipinitialspace=True))
    head = [field.strip().lower().replace(" ", "_") for field in table[0]]
    if not (set(head) & _NAMES) or any(re.match(r"-?\d", field) for field in head):
        return []
    if len(table) != len(lines):
        raise ValueError(f"{place}: a quoted field goes over several lines: write each class on one line")
    for (where, line), fields in zip(lines, table, strict=True):
        if len(fields) != len(head):
            raise ValueError(f"{where}: '{line}' has {len(fields)} columns, line 1 has {len(head)}")
    columns = {title: [fields[i].strip() for fields in table[1:]] for i, title in enumerate(head)}
    if len(columns) < len(head):
        raise ValueError(f"{place}: '{header}' names a column twice")
    numeric = {title for title, fields in columns.items() if all(re.fullmatch(r"-?\d+", x) for x in fields)}
    name = _only(place, [title for title in head if title in _NAMES - numeric], "of names")
    file_id = _only(place, [t for t in head if t in _IDS or (t in _NAMES and t in numeric)], "of ids", True)
    channels = [_only(place, [t for t in head if t in names], "of a colour", True) for names in _CHANNELS]
    color = _only(place, [title for title in head if title in _COLORS], "of colours", True)
    if not file_id and not color and not all(channels) and (unknown := sorted(numeric)):
        raise ValueError(f"{place}: column '{unknown[0]}' may be the id: call it id if it is, or take it out")
    rows = []
    for i, (where, _) in enumerate(lines[1:]):
        if file_id and file_id not in numeric:
            _integer(where, columns[file_id][i])
        found: tuple[int, ...] | None = None
        if all(channels):
            found = tuple(_integer(where, columns[channel][i]) for channel in channels)
        elif color:
            found = _color(where, columns[color][i])
        rows.append(Row(columns[name][i], int(columns[file_id][i]) if file_id else None, found, where))
    return rows


def _only(place: str, titles: Sequence[str], what: str, may_lack: bool = False) -> str:
    if len(titles) > 1 or not (titles or may_lack):
        given = f"columns {', '.join(titles)}" if titles else "no column"
        raise ValueError(f"{place}: has {given} {what}: name exactly one, as in 'id,name'")
    return titles[0] if titles else ""


def _rows_of_tree(tree: Any, place: str) -> list[Row]:
    """Understands what a YAML or JSON file holds."""
    if isinstance(tree, Mapping):
        count = tree.get("nc")
        for key in ("names", "categories", "id2label", "label2id"):
            if key in tree:
                rows = _rows_of_tree(tree[key], f"{place}, {key}")
                if isinstance(count, int) and count != len(rows):
                    raise ValueError(f"{place}: nc is {count}, but there are {len(rows)} names: correct one")
                return rows
        pairs = list(tree.items())
        if pairs and all(_is_number(value) and isinstance(key, str) for key, value in pairs):
            pairs = [(value, key) for key, value in pairs]
        if not pairs or not all(_is_number(key) for key, _ in pairs):
            raise ValueError(
                f"{place} has neither names nor categories: write lines 'name', 'id name' or 'R G B name'"
                " into a text file"
            )
        return _distinct([Row(_text(place, name), int(key), None, place) for key, name in pairs])
    if not isinstance(tree, list) or not tree:
        raise ValueError(f"{place} is not a list of classes")
    if all(isinstance(item, Mapping) for item in tree):
        if not all({"id", "name"} <= item.keys() and _is_number(item["id"]) for item in tree):
            raise ValueError(f"{place}: each class needs id and name: write lines 'id name' into a text file")
        colors = [_color(place, item["color"]) if "color" in item else None for item in tree]
        return _distinct(
            [
                Row(_text(place, item["name"]), int(item["id"]), color, place)
                for item, color in zip(tree, colors, strict=True)
            ]
        )
    return _distinct([Row(_text(place, name), i, None, place) for i, name in enumerate(tree)])


def _distinct(rows: Sequence[Row]) -> list[Row]:
    names = [row.name for row in rows]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{rows[0].place}: '{twice}' occurs twice: each class needs its own name")
    return list(rows)


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        return re.fullmatch(r"\d+", value) is not None
    return isinstance(value, int) and not isinstance(value, bool)


def _text(place: str, name: Any) -> str:
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"{place}: {reprlib.repr(name)} is not a name: put it in quotes if it is")
    return name.strip()


def _integer(place: str, text: str) -> int:
    if re.fullmatch(r"-?\d+", text) is None:
        raise ValueError(f"{place}: '{text}' is not a whole number")
    return int(text)


def _color(place: str, value: Any) -> tuple[int, ...]:
    """Understands `#ff8000`, `255 128 0`, `(255, 128, 0)` and `[255, 128, 0]`."""
    if isinstance(value, str) and (found := _HEX.fullmatch(value.strip())):
        return tuple(int(part, 16) for part in found.groups())
    parts: Iterable[Any] = re.findall(r"[^\s,;()\[\]]+", value) if isinstance(value, str) else value
    numbers = list(parts) if isinstance(parts, list | tuple) else []
    if len(numbers) != 3 or not all(_is_number(number) for number in numbers):
        raise ValueError(f"{place}: '{value}' is not a colour: write it as '255 128 0' or '#ff8000'")
    return tuple(int(number) for number in numbers)


def without_ignore(rows: Sequence[Row]) -> list[Row]:
    """Takes labelme's `__ignore__`, which has the id -1, out of the beginning of a list of names.

    Raises:
        ValueError: If it stands anywhere else, where it would shift the ids of the classes behind it.
    """
    rows = list(rows[1:] if rows and rows[0].name == _IGNORE and rows[0].file_id is None else rows)
    for row in rows:
        if row.name == _IGNORE:
            raise ValueError(
                f"{row.place}: '{_IGNORE}' is not a class: take it out, and name its id or colour in ignore"
            )
    return rows

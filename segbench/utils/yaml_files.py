"""YAML files of users, with errors that name the file, the line and the fix.

PyYAML lets the last of two equal keys win, expands aliases without limit and reports positions in
`<unicode string>`. Here duplicate keys are refused, aliases bounded and positions reported by file.
"""

import codecs
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DEEPEST = 100  # levels; PyYAML recurses on them
_LARGEST = 1_000_000  # values, with aliases expanded
_LONGEST = 16 << 20  # bytes of a file
_BINARY = {".ckpt", ".pt", ".pth", ".safetensors", ".bin", ".npz", ".onnx"}


def read_yaml(path: Path) -> Any:
    """Reads a YAML file.

    Args:
        path: Path given by the user.

    Returns:
        Plain values, as `yaml.safe_load` gives them.

    Raises:
        ValueError: If it is a folder, empty, not text or not valid YAML. The message has the file and, if
            known, the line.
        FileNotFoundError: If the file does not exist.
    """
    text = read_text(path)
    check_yaml(text, str(path))
    content = yaml.load(text, _Loader)  # noqa: S506 (a safe loader)
    if content is None:
        raise ValueError(f"{path} is empty")
    return content


def read_text(path: Path) -> str:
    """Reads a text file in UTF-8, with or without a byte order mark.

    Args:
        path: Path given by the user.

    Returns:
        The text.

    Raises:
        ValueError: If it is a folder, too large or not UTF-8.
        FileNotFoundError: If the file does not exist.
    """
    if path.is_dir():
        files = sorted(file.name for file in path.glob("*.y*ml"))
        hint = f"; it contains {', '.join(files[:5])}" if files else ""
        raise ValueError(f"{path} is a folder; give a YAML file{hint}")
    if path.suffix in _BINARY:
        raise ValueError(f"{path} is not a YAML file; give a checkpoint by --checkpoint {path}")
    if path.stat().st_size > _LONGEST:
        raise ValueError(f"{path} is larger than {_LONGEST >> 20} MB, too large for a YAML file")
    data = path.read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError(f"{path} is saved as UTF-16 (as PowerShell's `>` does); save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from None


def check_yaml(text: str, where: str) -> None:
    """Refuses YAML that is invalid, ambiguous or malicious.

    Args:
        text: YAML.
        where: The file or option it comes from, for messages.

    Raises:
        ValueError: If it is not YAML, contains several documents, an object, a duplicate key or itself, or is
            nested or repeated beyond the limits.
    """
    try:
        _check_depth(text, where)
        root = yaml.compose(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(_explain(error, text, where)) from None
    if root is not None:
        _count(root, where, {}, set())


def line_of(text: str, keys: Sequence[str]) -> int | None:
    """Returns the line that sets a value.

    Args:
        text: Valid YAML.
        keys: Path of nested keys; dotted keys in the YAML are split.

    Returns:
        Line number from 1; None if the YAML does not set the value, or sets it as part of a value without keys.
    """
    node, line, rest = yaml.compose(text, _Loader), None, list(keys)
    while rest and isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            spelled = str(key.value).removesuffix("+").split(".") if isinstance(key, yaml.ScalarNode) else []
            if spelled and spelled == rest[: len(spelled)]:
                node, line, rest = value, key.start_mark.line + 1, rest[len(spelled) :]
                break
        else:
            return None
    return line if not rest or not isinstance(node, yaml.MappingNode) else None


def _check_depth(text: str, where: str) -> None:
    depth = 0
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _DEEPEST:
            raise ValueError(
                f"{_at(where, event.start_mark)}: nested more than {_DEEPEST} levels deep; is it closed?"
            )


def _count(node: yaml.Node, where: str, known: dict[yaml.Node, int], open_: set[yaml.Node]) -> int:
    """Counts the values of a tree with aliases expanded, and checks the keys of mappings."""
    if node in known:
        return known[node]
    if node in open_:
        raise ValueError(f"{_at(where, node.start_mark)}: an alias contains itself")
    if not node.tag.startswith("tag:yaml.org,2002:") or ":python/" in node.tag:
        tag = node.tag.replace("tag:yaml.org,2002:", "!!")
        raise ValueError(f"{_at(where, node.start_mark)}: {tag} creates an object; write plain values")
    open_.add(node)
    children: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        _check_keys(node, where)
        children = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    total = 1 + sum(_count(child, where, known, open_) for child in children)
    if total > _LARGEST:
        raise ValueError(
            f"{_at(where, node.start_mark)}: aliases repeat values more than {_LARGEST:,} times; write them out"
        )
    open_.remove(node)
    known[node] = total
    return total


def _check_keys(node: yaml.MappingNode, where: str) -> None:
    lines: dict[tuple[str, str], int] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise ValueError(
                f"{_at(where, key.start_mark)}: a {key.id} cannot be a key; quote text that contains braces"
            )
        line, same = key.start_mark.line + 1, (key.tag, key.value)
        if same in lines:
            first = lines[same]
            raise ValueError(
                f"{where}, line {line}: '{key.value}' is given twice, first in line {first}; remove one"
            )
        lines[same] = line


# Messages of libyaml, and what they mean to the author of the file.
_MEANINGS = {
    "mapping values are not allowed in this context": "a second ':' in one line; quote text that contains ': '",
    "did not find expected key": "wrong indentation: this line continues nothing above it",
    "did not find expected '-' indicator": "wrong indentation, or a '- ' is missing in a list",
    "found undefined alias": "'*' refers to an unknown anchor; quote text that begins with it",
    "found unexpected end of stream": "a quote is not closed",
}


def _explain(error: yaml.YAMLError, text: str, where: str) -> str:
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        position = getattr(error, "position", 0)
        return f"{where}, line {text.count(chr(10), 0, position) + 1}: {str(error).splitlines()[0]}"
    lines = [*text.splitlines(), ""]
    problem, mark, opened = str(error.problem), error.problem_mark, error.context_mark
    place = f"{where}, line {min(mark.line + 1, len(lines) - 1)}"
    at = lines[min(mark.line, len(lines) - 1)][mark.column : mark.column + 1]
    if "cannot start any token" in problem:
        return f"{place}: " + (
            "a tab; indent with spaces" if at == "\t" else f"'{at}' cannot begin plain text; quote it"
        )
    if "another document" in problem:
        return f"{place}: a second document begins after `---`; put each in a file of its own"
    if "parsing a flow" in str(error.context) and opened is not None:
        bracket = lines[opened.line][opened.column : opened.column + 1]
        if bracket in ("[", "{"):
            return f"{place}: '{bracket}' of line {opened.line + 1} is not closed, or a comma is missing"
        return f"{place}: a bracket is not closed, or a value is missing"
    return f"{place}: {_MEANINGS.get(problem, problem)}"


def _at(where: str, mark: Any) -> str:
    return f"{where}, line {mark.line + 1}"

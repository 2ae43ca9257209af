"""Reasons why values were refused, from the message of jsonargparse and the type of the option."""

import ast
import re
from collections.abc import Sequence
from typing import Any

from segbench.parsing.expected import alternatives, base_classes, refusal
from segbench.parsing.names import COMPONENT_PACKAGES, class_names, close_matches, did_you_mean

_VALUE = re.compile(r"(?:Got value|Given value): (.*)")
# How jsonargparse and importlib report an unknown class.
_NO_CLASS = (
    re.compile(r"Expected a dot import path string: ([^\n]*)"),
    re.compile(r"Unexpected import path format: ([^\n]*)"),
    re.compile(r"module '(?P<module>[\w.]+)' has no attribute '(?P<name>\w+)'"),
    re.compile(r"No module named '(?P<missing>[\w.]+)'"),
)
_WRONG_CLASS = re.compile(
    r"(?:Import path (\S+) does not correspond"
    r"|Expected '(\S+)' to be a (?:subclass|class|function)"
    r"|class, but (\S+) is)"
)


def reason(hint: Any, message: str) -> str:
    """Returns why a value was refused whose message contains no `Problem`.

    Args:
        hint: Type of the option; None if unknown.
        message: Message of jsonargparse.
    """
    kinds = base_classes(hint)
    numeric = {int, float} & {*alternatives(hint)}
    if kinds and not numeric and (text := _class_reason(kinds, message)):
        return text
    if hint is None:
        return single_line(message)
    found = [value for value in _VALUE.findall(message) if "Namespace(" not in value]
    return refusal(hint, _as_read(found[-1]) if found else None, bool(found))


def _class_reason(kinds: Sequence[type], message: str) -> str:
    names = class_names(kinds)
    what = f"{' and '.join(dict.fromkeys(cls.__name__ for cls in kinds))} classes"
    if wrong := _WRONG_CLASS.search(message):
        name = next(filter(None, wrong.groups()))
        leaf = name.rpartition(".")[2]
        return f"{name} is not one of the {what}; {did_you_mean(leaf, names, 'they')}"
    for pattern in _NO_CLASS:
        if found := pattern.search(message):
            groups = found.groupdict()
            named = re.search(r"class_path[= ]'([^']+)'|Got value: ([\w.]+)\s*$", message)
            given = next(filter(None, named.groups()), "") if named else ""
            if groups.get("missing") and not f"{given}.".startswith(f"{groups['missing']}."):
                return f"{given} cannot be imported: {found[0]}" if given else found[0]
            name = given or (f"{groups['module']}.{groups['name']}" if groups.get("name") else found[1])
            return f"unknown class '{name}'; {_closest_class(name.rpartition('.')[2], names, what)}"
    return ""


def _closest_class(leaf: str, names: dict[str, type], what: str) -> str:
    close = close_matches(leaf, names)
    if close and not any(names[name].__module__.startswith("segbench.") for name in close):
        return f"did you mean {' or '.join(close)}?"
    packages = tuple(f"segbench.{name}." for name in COMPONENT_PACKAGES)
    own = sorted(name for name, cls in names.items() if cls.__module__.startswith(packages))
    if not own and not close:
        return "give its full path, as in package.module.Class"
    if not close:
        return did_you_mean(leaf, own, what)
    return f"did you mean {' or '.join(close)}? {what} are {', '.join(own)}"


def _as_read(value: str) -> Any:
    """Parses a value from its representation in a message."""
    nested = re.fullmatch(r"NestedArg\(key='[^']*', val=(.*)\)", value)
    value = nested[1] if nested else value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return value


def single_line(message: str) -> str:
    """Joins the lines of a message.

    Args:
        message: Message of jsonargparse, without the key.
    """
    lines = [line.strip().removeprefix("- ") for line in message.strip(" :\n").splitlines() if line.strip()]
    return "; ".join(lines)

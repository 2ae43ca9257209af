"""Type hints in words: the values that an option accepts, with an example."""

import inspect
import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from enum import Enum
from pathlib import PurePath
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from segbench.parsing.names import class_names, close_matches

_NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four"}
_WORDS = {
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("true or false", "trues or falses"),
    str: ("text", "texts"),
    NoneType: ("null", "nulls"),
}
_EXAMPLES = {int: "1", float: "0.5", bool: "true", str: "NAME"}
_QUOTED = {True: "'off'", False: "'1'"}
# Names of other tools for values of `--trainer.precision`.
_ALIASES = {
    "fp16": "16-mixed",
    "float16": "16-mixed",
    "half": "16-mixed",
    "amp": "16-mixed",
    "mixed": "16-mixed",
    "bfloat16": "bf16-mixed",
    "fp32": "32-true",
    "float32": "32-true",
    "full": "32-true",
    "double": "64-true",
}


def expected(hint: Any, value: Any = None) -> str:
    """Describes the values that a type accepts.

    Args:
        hint: As in a signature.
        value: The refused value, used in the example where it fits.

    Returns:
        Text to follow "give".
    """
    parts = alternatives(hint)
    if {int, float} & {
        *parts
    }:  # YAML can give numbers only, for example for a learning rate that may be a tensor
        parts = [part for part in parts if part in _WORDS or not base_classes(part)]
    literals = [f"{value}" for part in parts if get_origin(part) is Literal for value in get_args(part)]
    texts = [_one(part, value) for part in parts if get_origin(part) is not Literal and part is not NoneType]
    if literals:
        texts.insert(0, f"one of {', '.join(dict.fromkeys(literals))}")
    if NoneType in parts:
        texts.append("null")
    return " or ".join(dict.fromkeys(texts))


def refusal(hint: Any, value: Any, known: bool) -> str:
    """Explains why a value was refused and how to write it.

    Args:
        hint: Type of the option.
        value: As YAML reads it, or as typed.
        known: Whether `value` is the refused value; otherwise it is not shown.

    Returns:
        One line without the name of the option.
    """
    parts = alternatives(hint)
    text = f"give {expected(hint, value if known else None)}"
    if not known:
        return text
    text = f"{text}; got {_format(value)}"
    if value in (None, "null", "None") and NoneType not in parts:
        return text
    if _takes_text(parts) and (advice := _unquoted(value)):
        return f"{text}: {advice}"
    choices = [f"{choice}" for part in parts if get_origin(part) is Literal for choice in get_args(part)]
    alias = _ALIASES.get(str(value).lower())
    if close := ([alias] if alias in choices else close_matches(str(value), choices)):
        return f"{text}; did you mean {' or '.join(close)}?"
    if int in parts and (whole := _whole(value)) is not None:
        return f"{text}; write {whole}"
    return text


def base_classes(hint: Any) -> tuple[type, ...]:
    """Returns the classes whose subclasses an option accepts, also in lists and from factories.

    Args:
        hint: As in a signature.
    """
    found: list[type] = []
    for part in alternatives(hint):
        origin, args = get_origin(part), get_args(part)
        if origin is Callable and len(args) == 2:
            found += base_classes(args[1])
        elif origin in (list, tuple, set, Sequence, Iterable, Collection, dict, Mapping):
            found += [cls for arg in args for cls in base_classes(arg)]
        elif inspect.isclass(part) and not _is_plain(part):
            found.append(part)
    return tuple(found)


def alternatives(hint: Any) -> list[Any]:
    """Returns the members of a union; other types alone.

    Args:
        hint: As in a signature.
    """
    if get_origin(hint) in (Union, UnionType):
        return [one for part in get_args(hint) for one in alternatives(part)]
    return [hint]


def _is_plain(cls: type) -> bool:
    return cls in _WORDS or cls is Any or cls is object or issubclass(cls, (os.PathLike, PurePath, Enum))


def _one(hint: Any, value: Any) -> str:
    origin, args = get_origin(hint), get_args(hint)
    if hint in _WORDS:
        return _WORDS[hint][0]
    if origin is tuple and args and args[-1] is not Ellipsis:
        side = value if type(value) in (int, float) and type(value) in args else None
        shown = ", ".join(str(side) if side is not None else _example(arg) for arg in args)
        kind = _plural(args[0]) if len({*args}) == 1 and args[0] in _WORDS else "values"
        return f"{_NUMBERS.get(len(args), len(args))} {kind}, as in [{shown}]"
    if origin in (dict, Mapping) and len(args) == 2:
        return f"a mapping, as in '{{{_example(args[0])}: {_example(args[1])}}}'"
    if origin in (list, tuple, set, Sequence, Iterable, Collection):
        item = args[0] if args else Any
        return f"a list of {_plural(item)}, as in '[{_example(item)}]'"
    if origin is Callable or (inspect.isclass(hint) and not _is_plain(hint)):
        kinds = base_classes(hint)
        names = [name for name, cls in class_names(kinds).items() if cls.__module__.startswith("segbench.")]
        such = f", such as {', '.join(sorted(names)[:4])}" if names else ""
        kind = " or ".join(cls.__name__ for cls in kinds)
        return f"a class of kind {kind}{such}" if kinds else "a function or class"
    if inspect.isclass(hint) and issubclass(hint, Enum):
        return f"one of {', '.join(hint.__members__)}"
    if inspect.isclass(hint) and issubclass(hint, os.PathLike):
        return "a path"
    return "a value"


def _plural(hint: Any) -> str:
    kinds = [_WORDS[part][1] if part in _WORDS else "values" for part in alternatives(hint)]
    if names := base_classes(hint):
        return f"{' or '.join(cls.__name__ for cls in names)} classes"
    return " or ".join(dict.fromkeys(kinds))


def _example(hint: Any) -> str:
    part = alternatives(hint)[0]
    origin, args = get_origin(part), get_args(part)
    if origin is Literal:
        return str(args[0])
    if origin in (list, tuple, Sequence) and args:
        return f"[{', '.join(_example(arg) for arg in args if arg is not Ellipsis)}]"
    if base_classes(part):
        return "{class_path: NAME}"
    return _EXAMPLES.get(part, "VALUE")


def not_text_keys(hint: Any, value: Mapping[Any, Any]) -> str:
    """Explains how to write keys of a mapping that YAML does not read as text; empty if it reads all as text.

    Args:
        hint: Type of the option.
        value: As YAML reads it.
    """
    keys = {get_args(part)[0] for part in alternatives(hint) if get_origin(part) in (dict, Mapping)}
    wrong = [key for key in value if not isinstance(key, str)]
    return f"the key {_format(wrong[0])}: {_unquoted(wrong)}" if wrong and keys == {str} else ""


def _takes_text(parts: Sequence[Any]) -> bool:
    inside = [alternatives(arg) for part in parts if get_origin(part) is not Literal for arg in get_args(part)]
    return str in parts or any(_takes_text(arg) for arg in inside)


def _unquoted(value: Any) -> str:
    """Explains how to write names that YAML reads as other values."""
    items = value if isinstance(value, (list, tuple)) else [value]
    wrong = [item for item in items if not isinstance(item, (str, list, tuple, dict))]
    if not wrong:
        return ""
    quoted = _QUOTED[isinstance(wrong[0], bool)]
    return f"YAML reads off, no, 1 and null as values, not as text; quote it, as in {quoted}"


def _format(value: Any) -> str:
    """Formats a value as in YAML."""
    shown = str(value) if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    shown = shown.replace('"', "'")
    return shown if len(shown) <= 60 else f"{shown[:57]}…"


def _whole(value: Any) -> int | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return int(number) if number.is_integer() and abs(number) < 1e15 else None

"""Plain values of somebody else's file: what they may be, how many, and how deep they may lie.

A checkpoint, a config.json or a YAML from elsewhere becomes dictionaries, lists, text and numbers here, or is
refused. Limits hold before anything walks the values: a file of a few bytes can claim 10^12 of them by sharing.
"""

import json
import re
from collections.abc import Collection
from typing import Any

import yaml

from segbench.utils.printable import CONTROLS, printable

MAX_TEXT = 2 << 20  # characters of a whole configuration; one that leaves out 20,000 images by name has half
MAX_VALUES = 100_000
MAX_DEPTH = 64
# No dots, at which jsonargparse takes keys apart, and none of its instructions (`key+`, `__path__`).
_KEY = re.compile(r"[^\W_][^.+]*|_[^\W_][^.+]*")
# Options whose keys are names of classes, which may hold any sign but spell no key of jsonargparse's.
_NAMED = {"merge"}
_SPELLED = re.compile(r"class_path|init_args|dict_kwargs|__path__")
# libyaml where it is there; both build plain values alone.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def plain(value: Any, source: object) -> Any:
    """Copies values, which thereby share nothing and are of Python's own plain types.

    Args:
        value: Of a file that may be anybody's.
        source: The file, for the message.

    Returns:
        Dictionaries, lists, text, numbers and None; tuples become lists.

    Raises:
        ValueError: If there are other values, keys that are not names, control characters, or too many values.
    """
    return _Copy(source)(value, 0)


def read_yaml(text: Any, source: object, inert: Collection[str] = ()) -> Any:
    """Reads YAML as plain values.

    Args:
        text: The YAML.
        source: Where it stood, for the message.
        inert: Parts of it from which nothing is built, so that keys within them may be any text.

    Returns:
        See `plain`.

    Raises:
        ValueError: If it is not YAML, too large, or holds other values.
    """
    if not isinstance(text, str):
        raise ValueError(f"{source} is damaged: its configuration is not text")
    try:
        return _Copy(source, inert)(load_yaml(text, source), 0)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ValueError(
            f"{source} carries a configuration that is not understood: no YAML{line} ({type(error).__name__})"
        ) from error


def load_yaml(text: str, source: object) -> Any:
    """Reads YAML within the limits, but for values that are shared: they stay so.

    Args:
        text: The YAML.
        source: Where it stood, for the message.

    Returns:
        What YAML's safe loader makes of it.

    Raises:
        ValueError: If it is too large.
        yaml.YAMLError: If it is not YAML.
    """
    _check_length(text, source)
    depth = count = 0
    for event in yaml.parse(text, Loader=_LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        count += isinstance(event, yaml.NodeEvent)
        check_limits(count, depth, source)
    return yaml.load(text, Loader=_LOADER)  # noqa: S506 (a safe loader, see above)


def read_json(text: str, source: object, wanted: Collection[str]) -> Any:
    """Reads JSON as plain values.

    Args:
        text: The JSON.
        source: Where it stood, for the message.
        wanted: Keys; what else stands beside them is for other tools, and left out.

    Returns:
        See `plain`.

    Raises:
        ValueError: If it is not JSON, too large, or holds other values.
    """
    _check_length(text, source)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:  # of integers with thousands of digits as well
        raise ValueError(
            f"{source} carries a configuration that is not understood: no JSON ({printable(error)})"
        ) from error
    if isinstance(found, dict):
        found = {key: found[key] for key in wanted if key in found}
    return plain(found, source)


def _check_length(text: str, source: object) -> None:
    if len(text) > MAX_TEXT:
        raise ValueError(
            f"{source} is refused: its configuration has {len(text):,} characters, and at most {MAX_TEXT:,} are"
            " read"
        )


def check_limits(values: int, depth: int, source: object) -> None:
    """Refuses what is too large to be a configuration.

    Args:
        values: How many were seen so far.
        depth: Levels that the last one lies deep.
        source: Where they stood, for the message.

    Raises:
        ValueError: If either is above its limit.
    """
    if values > MAX_VALUES:
        raise ValueError(f"{source} is refused: its configuration holds more than {MAX_VALUES:,} values")
    if depth > MAX_DEPTH:
        raise ValueError(f"{source} is refused: its configuration is more than {MAX_DEPTH} levels deep")


class _Copy:
    """Counts what it copies."""

    def __init__(self, source: object, inert: Collection[str] = ()) -> None:
        self.source = source
        self.inert = inert
        self.within = False  # such a part
        self.values = 0

    def __call__(self, value: Any, depth: int) -> Any:
        self.values += 1
        check_limits(self.values, depth, self.source)
        if value is None or type(value) in (bool, int, float):
            if type(value) is int and value.bit_length() > 64:
                raise ValueError(f"{self.source} is refused: its configuration holds a number of over 64 bits")
            return value
        if type(value) is str:
            return self._text(value)
        if isinstance(value, dict):
            return {self._key(key): self._entry(key, entry, depth + 1) for key, entry in value.items()}
        if isinstance(value, (list, tuple)):
            return [self(entry, depth + 1) for entry in value]
        raise ValueError(
            f"{self.source} is refused: its configuration holds a {type(value).__name__}, no plain value"
        )

    def _entry(self, key: Any, value: Any, depth: int) -> Any:
        """Copies what stands under a key; names of classes may hold any sign."""
        if depth == 1 and key in self.inert:
            self.within = True
            copied = self(value, depth)
            self.within = False
            return copied
        if key not in _NAMED or not isinstance(value, dict) or not all(map(_is_names, value.values())):
            return self(value, depth)
        lists = self(list(value.values()), depth)
        return {self._name(name): one for name, one in zip(value, lists, strict=True)}

    def _name(self, name: Any) -> str | int:
        return self._text(name) if type(name) is str and not _SPELLED.search(name) else self._key(name)

    def _key(self, key: Any) -> str | int:
        if type(key) is int:
            return key
        if type(key) is str and (self.within or _KEY.fullmatch(key) or re.fullmatch(r"-?\d+", key)):
            return self._text(key)
        raise ValueError(
            f"{self.source} is refused: its configuration holds the key {printable(key)}, no plain name"
        )

    def _text(self, text: str) -> str:
        if CONTROLS.search(text.replace("\n", "").replace("\t", "")):
            raise ValueError(
                f"{self.source} is refused: its configuration holds control characters, {printable(text)}"
            )
        return text


def _is_names(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(type(name) is str for name in value)

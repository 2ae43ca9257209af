"""Plain values from untrusted files, with limits on their types, number and depth.

The content of a foreign checkpoint, config.json or YAML file becomes dictionaries, lists, strings and numbers,
or is refused. Limits are checked before anything walks the values: by sharing, a file of a few bytes can expand
to 10^12.
"""

import json
import re
from collections.abc import Collection
from typing import Any

import yaml

from segbench.utils.printable import CONTROLS, printable

MAX_TEXT = 2 << 20  # characters of a configuration; one that excludes 20,000 images by name has half
MAX_VALUES = 100_000
MAX_DEPTH = 64
# No dots, at which jsonargparse splits keys, and none of its directives (`key+`, `__path__`).
_KEY = re.compile(r"[^\W_][^.+]*|_[^\W_][^.+]*")
# Options whose keys are class names: any characters, but no key of jsonargparse.
_NAMED = {"merge"}
_SPELLED = re.compile(r"class_path|init_args|dict_kwargs|__path__")
# libyaml if available; both loaders build plain values only.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def plain(value: Any, source: object) -> Any:
    """Copies values so that they share nothing and have built-in types.

    Args:
        value: Content of an untrusted file.
        source: The file, for the message.

    Returns:
        Dictionaries, lists, strings, numbers and None; tuples become lists.

    Raises:
        ValueError: If there are other types, keys that are not names, control characters, or too many values.
    """
    return _Copy(source)(value, 0)


def read_yaml(text: Any, source: object, inert: Collection[str] = ()) -> Any:
    """Reads YAML as plain values.

    Args:
        text: The YAML.
        source: Where it was found, for the message.
        inert: Top-level keys from which no object is built, so that keys below them may be any text.

    Returns:
        See `plain`.

    Raises:
        ValueError: If it is not YAML, too large, or contains other types.
    """
    if not isinstance(text, str):
        raise ValueError(f"{source} is damaged: its configuration is not text")
    try:
        return _Copy(source, inert)(load_yaml(text, source), 0)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ValueError(
            f"{source} contains a configuration that is not valid YAML{line} ({type(error).__name__})"
        ) from error


def load_yaml(text: str, source: object) -> Any:
    """Reads YAML within the limits; values that are shared by aliases stay shared.

    Args:
        text: The YAML.
        source: Where it was found, for the message.

    Returns:
        The values of YAML's safe loader.

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
        source: Where it was found, for the message.
        wanted: Top-level keys to keep; others belong to other tools.

    Returns:
        See `plain`.

    Raises:
        ValueError: If it is not JSON, too large, or contains other types.
    """
    _check_length(text, source)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError also for integers with thousands of digits
        raise ValueError(
            f"{source} contains a configuration that is not valid JSON ({printable(error)})"
        ) from error
    if isinstance(found, dict):
        found = {key: found[key] for key in wanted if key in found}
    return plain(found, source)


def _check_length(text: str, source: object) -> None:
    if len(text) > MAX_TEXT:
        raise ValueError(
            f"{source} is refused: its configuration has {len(text):,} characters, and at most"
            f" {MAX_TEXT:,} are read"
        )


def check_limits(values: int, depth: int, source: object) -> None:
    """Refuses a configuration that is too large.

    Args:
        values: Number of values so far.
        depth: Nesting level of the last one.
        source: Where they were found, for the message.

    Raises:
        ValueError: If a limit is exceeded.
    """
    if values > MAX_VALUES:
        raise ValueError(f"{source} is refused: its configuration contains more than {MAX_VALUES:,} values")
    if depth > MAX_DEPTH:
        raise ValueError(f"{source} is refused: its configuration is more than {MAX_DEPTH} levels deep")


class _Copy:
    """Copies values and counts them."""

    def __init__(self, source: object, inert: Collection[str] = ()) -> None:
        self.source = source
        self.inert = inert
        self.within = False  # an inert part
        self.values = 0

    def __call__(self, value: Any, depth: int) -> Any:
        self.values += 1
        check_limits(self.values, depth, self.source)
        if value is None or type(value) in (bool, int, float):
            if type(value) is int and value.bit_length() > 64:
                raise ValueError(
                    f"{self.source} is refused: its configuration contains an integer of over 64 bits"
                )
            return value
        if type(value) is str:
            return self._text(value)
        if isinstance(value, dict):
            return {self._key(key): self._entry(key, entry, depth + 1) for key, entry in value.items()}
        if isinstance(value, (list, tuple)):
            return [self(entry, depth + 1) for entry in value]
        raise ValueError(
            f"{self.source} is refused: its configuration contains a {type(value).__name__}, not a plain value"
        )

    def _entry(self, key: Any, value: Any, depth: int) -> Any:
        """Copies the value of a key; class names may contain any character."""
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
            f"{self.source} is refused: its configuration contains the key {printable(key)}, not a plain name"
        )

    def _text(self, text: str) -> str:
        if CONTROLS.search(text.replace("\n", "").replace("\t", "")):
            raise ValueError(
                f"{self.source} is refused: its configuration contains control characters, {printable(text)}"
            )
        return text


def _is_names(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(type(name) is str for name in value)

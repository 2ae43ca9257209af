"""An object written down as plain values, so that what a cache holds can be told by how it was made."""

from collections.abc import Mapping, Sequence, Set
from pathlib import PurePath
from typing import Any

import numpy as np


def fingerprint_fields(thing: object) -> Any:
    """Writes an object down, the same in every process.

    Args:
        thing: Values, containers, and objects that consist of such.

    Returns:
        Text, numbers, lists and dictionaries, as JSON has them.

    Raises:
        ValueError: If it cannot be written down, as for a lambda or an open file.
    """
    if thing is None or isinstance(thing, (bool, int, float, str)):
        return thing
    if isinstance(thing, PurePath):
        return thing.as_posix()
    if isinstance(thing, Mapping):
        return [
            "mapping",
            sorted(
                ([fingerprint_fields(key), fingerprint_fields(value)] for key, value in thing.items()), key=repr
            ),
        ]
    if isinstance(thing, Set):
        return ["set", sorted((fingerprint_fields(item) for item in thing), key=repr)]
    if isinstance(thing, Sequence):
        return [fingerprint_fields(item) for item in thing]
    if isinstance(thing, (np.ndarray, np.generic)):
        return [str(thing.dtype), thing.tolist()]
    if isinstance(thing, type) or (callable(thing) and hasattr(thing, "__qualname__")):
        name = f"{thing.__module__}.{thing.__qualname__}"
        if "<lambda>" in name or getattr(thing, "__self__", None) is not None:
            raise ValueError(f"{name} cannot be written down: give a function or class of a module")
        return name
    if hasattr(thing, "__dict__"):
        return {
            "class": fingerprint_fields(type(thing)),
            **{name: fingerprint_fields(value) for name, value in vars(thing).items()},
        }
    raise ValueError(f"{type(thing).__qualname__} {thing!r} cannot be written down: give plain values")

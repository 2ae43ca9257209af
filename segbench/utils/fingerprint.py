"""Fingerprints that identify the entries of caches: objects as plain values, and short hashes."""

import hashlib
import json
from collections.abc import Mapping, Sequence, Set
from pathlib import PurePath
from typing import Any

import numpy as np


def short_hash(content: str | bytes, length: int = 32) -> str:
    """Returns the first `length` hexadecimal digits (64 at most) of the SHA-256 of text or bytes."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()[:length]


def json_hash(values: Any, length: int = 32) -> str:
    """Returns a short hash of plain values, which does not depend on the order of keys."""
    return short_hash(json.dumps(values, sort_keys=True), length)


def fingerprint_fields(thing: object) -> Any:
    """Converts an object to plain values that are the same in every process.

    Args:
        thing: Values, containers, and objects that consist of such.

    Returns:
        Text, numbers, lists and dictionaries that JSON can represent.

    Raises:
        ValueError: If it has no stable representation, such as a lambda or an open file.
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
            raise ValueError(f"{name} has no fingerprint: give a function or class of a module")
        return name
    if hasattr(thing, "__dict__"):
        return {
            "class": fingerprint_fields(type(thing)),
            **{name: fingerprint_fields(value) for name, value in vars(thing).items()},
        }
    raise ValueError(f"{type(thing).__qualname__} {thing!r} has no fingerprint: give plain values")

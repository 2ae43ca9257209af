"""Values of a configuration that somebody else's program wrote: found by dotted key, and checked."""

from collections.abc import Mapping
from typing import Any, TypeVar

Value = TypeVar("Value")


class Computed:
    """Stands for a value that would have to be computed, which is not done; looking it up is refused."""


_REQUIRED: Any = object()


class Settings:
    """A nested configuration, and the file to name in messages."""

    def __init__(self, values: Mapping[str, Any], origin: object) -> None:
        """Takes the configuration.

        Args:
            values: Plain values, nested by name.
            origin: The file it is from.
        """
        self.values = values
        self.origin = origin

    def get(self, key: str, kind: type[Value], default: Value = _REQUIRED) -> Value:
        """Looks a value up.

        Args:
            key: Such as `net_kwargs.patch_size`.
            kind: Its type; whole numbers are taken for a float.
            default: Where it is missing or none.

        Returns:
            The value.

        Raises:
            ValueError: If it is missing and there is no default, or it is of another type.
        """
        value: Any = self.values
        for name in key.split("."):
            if isinstance(value, Mapping):
                value = value.get(name)
            elif not isinstance(value, Computed):
                value = None
        if isinstance(value, Computed):
            raise ValueError(
                f"{self.origin}: {key} is computed there, not here; give the resolved configuration"
            )
        if value is None and default is not _REQUIRED:
            return default
        if kind is float and type(value) is int:
            value = float(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            told = "missing" if value is None else f"{value!r}"
            raise ValueError(f"{self.origin}: {key} is {told}, where a {kind.__name__} is expected")
        return value

    def pair(self, key: str, default: tuple[int, int] | None = None) -> tuple[int, int] | None:
        """Looks up a size, one number or two.

        Args:
            key: As in `get`.
            default: Where it is missing or none.

        Returns:
            Two positive whole numbers, or the default.

        Raises:
            ValueError: If it is anything else.
        """
        value = self.get(key, object, None)
        if value is None:
            return default
        both = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
        if len(both) == 1:
            both *= 2
        if len(both) != 2 or not all(type(side) is int and 0 < side < 1 << 20 for side in both):
            raise ValueError(
                f"{self.origin}: {key} is {value!r}, where one or two positive numbers are expected"
            )
        return both[0], both[1]

    def has(self, key: str) -> bool:
        """Returns whether there is a value, and it is not none."""
        return self.get(key, object, None) is not None

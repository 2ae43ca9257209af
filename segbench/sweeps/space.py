"""What a sweep searches: parameters of a W&B file, their values, and the points of a grid."""

import difflib
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

Point: TypeAlias = dict[str, Any]
"""A value for every parameter, as JSON has it."""

# W&B's distributions that are understood here: kind of number, logarithmic or not, rounded to `q` or not, and
# whether min and max are exponents of e.
_RANGES = {
    "uniform": ("float", False, False, False),
    "int_uniform": ("int", False, False, False),
    "q_uniform": ("float", False, True, False),
    "log_uniform": ("float", True, False, True),
    "log_uniform_values": ("float", True, False, False),
    "q_log_uniform": ("float", True, True, True),
    "q_log_uniform_values": ("float", True, True, False),
}
_KEYS = {"value", "values", "min", "max", "distribution", "q", "parameters"}


class Parameter(NamedTuple):
    """One setting that is varied.

    Attributes:
        name: Dotted key, as on the command line without `--`.
        choices: Values to choose from; empty for a range.
        kind: Of numbers in a range.
        low: Least value of a range.
        high: Greatest value of a range.
        log: Whether a range is searched by magnitude.
        step: Values of a range are multiples of it; None for any.
    """

    name: str
    choices: tuple[Any, ...] = ()
    kind: Literal["float", "int"] = "float"
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None

    def samples(self) -> tuple[Any, ...]:
        """Lists all choices, or both ends of a range."""
        return self.choices or (self.rounded(self.low), self.rounded(self.high))

    def rounded(self, value: float) -> float | int:
        """Rounds a number of a range to what its trial is given."""
        if self.step is not None:
            # Again in decimals: 3 · 0.1 is not 0.3.
            value = float(f"{round(value / self.step) * self.step:.12g}")
        return int(value) if self.kind == "int" or (self.step or 0.5) % 1 == 0 else value


def read_parameters(tree: Mapping[str, Any], where: str, prefix: str = "") -> list[Parameter]:
    """Reads `parameters:`; nested ones get dotted names.

    Args:
        tree: As in the file.
        where: The file, for messages.
        prefix: Of the names.

    Returns:
        One for each setting.

    Raises:
        ValueError: If a parameter is not understood.
    """
    found: list[Parameter] = []
    for key, options in tree.items():
        name = f"{prefix}{key}"
        if not isinstance(options, Mapping):
            raise ValueError(f"{where}: parameters.{name} is {options!r}; write {{value: {options!r}}}")
        unknown = [str(option) for option in options if option not in _KEYS]
        if unknown:
            near = difflib.get_close_matches(unknown[0], _KEYS, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(sorted(_KEYS))}"
            raise ValueError(f"{where}: parameters.{name} has no key '{unknown[0]}'; {hint}")
        if "parameters" in options:
            found += read_parameters(options["parameters"], where, f"{name}.")
        else:
            found.append(_read(name, options, where))
    names = [parameter.name for parameter in found]
    if doubled := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{where}: parameters.{doubled[0]} is given twice")
    return found


def _read(name: str, options: Mapping[str, Any], where: str) -> Parameter:
    at = f"{where}: parameters.{name}"
    if "value" in options:
        return Parameter(name, (options["value"],))
    if "values" in options:
        values = options["values"]
        if not isinstance(values, list) or not values:
            raise ValueError(f"{at}.values is {values!r}; give a list")
        texts = [json.dumps(value, sort_keys=True) for value in values]
        if doubled := [text for text in texts if texts.count(text) > 1]:
            raise ValueError(f"{at}.values has {doubled[0]} twice; leave one out")
        return Parameter(name, tuple(values))
    if not {"min", "max"} <= options.keys():
        raise ValueError(f"{at} has neither value, nor values, nor min and max")
    for bound in ("min", "max", "q"):
        if bound in options and (
            isinstance(options[bound], bool) or not isinstance(options[bound], (int, float))
        ):
            raise ValueError(f"{at}.{bound} is {options[bound]!r}, no number in YAML; write 1.0e-4 for 1e-4")
    low, high = options["min"], options["max"]
    whole = isinstance(low, int) and isinstance(high, int)
    if "distribution" not in options and whole != isinstance(low, int):
        raise ValueError(
            f"{at}: min {low} and max {high} are of two kinds; write both with a point, or neither"
        )
    distribution = options.get("distribution", "int_uniform" if whole else "uniform")
    if distribution not in _RANGES:
        raise ValueError(f"{at}.distribution is {distribution!r}; known are {', '.join(_RANGES)}")
    kind, log, rounds, exponents = _RANGES[distribution]
    if exponents:
        low, high = math.exp(low), math.exp(high)
    step = float(options.get("q", 1)) if rounds else None
    if low > high or (log and low <= 0) or (step is not None and step <= 0):
        raise ValueError(f"{at}: min {low:g} to max {high:g} is no range for {distribution}")
    return Parameter(name, (), "int" if kind == "int" else "float", float(low), float(high), log, step)


def grid(parameters: Sequence[Parameter], where: str) -> Iterator[Point]:
    """Lists all combinations, the last parameter varying fastest.

    Args:
        parameters: With choices, or ranges of whole or rounded numbers.
        where: The file, for messages.

    Yields:
        Points.

    Raises:
        ValueError: If a range has no end of values.
    """
    columns = [_listed(parameter, where) for parameter in parameters]
    for values in itertools.product(*columns):
        yield {parameter.name: value for parameter, value in zip(parameters, values, strict=True)}


def _listed(parameter: Parameter, where: str) -> Sequence[Any]:
    if parameter.choices:
        return parameter.choices
    step = 1.0 if parameter.kind == "int" else parameter.step
    if step is None or parameter.log:
        raise ValueError(
            f"{where}: parameters.{parameter.name} is a range without steps, which no grid covers; give values"
        )
    first, last = math.ceil(parameter.low / step - 1e-9), math.floor(parameter.high / step + 1e-9)
    return [parameter.rounded(number * step) for number in range(first, last + 1)]


def covering(parameters: Sequence[Parameter]) -> list[Point]:
    """Lists as few points as have every choice, and both ends of every range, at least once.

    Args:
        parameters: Of any kind.

    Returns:
        As many points as the parameter with the most values has values.
    """
    columns = [parameter.samples() for parameter in parameters]
    return [
        {
            parameter.name: column[index % len(column)]
            for parameter, column in zip(parameters, columns, strict=True)
        }
        for index in range(max(map(len, columns), default=1))
    ]

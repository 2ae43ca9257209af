"""What a sweep searches: parameters of a W&B file, their values, and the points of a grid."""

import bisect
import difflib
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import Any, Literal, NamedTuple, TypeAlias

Point: TypeAlias = dict[str, Any]
"""A value for every parameter, as JSON has it."""

# W&B's ranges: kind of number, logarithmic or not, rounded to `q` or not, and whether min and max are exponents
# of e.
_RANGES = {
    "uniform": ("float", False, False, False),
    "int_uniform": ("int", False, False, False),
    "q_uniform": ("float", False, True, False),
    "log_uniform": ("float", True, False, True),
    "log_uniform_values": ("float", True, False, False),
    "inv_log_uniform_values": ("float", True, False, False),  # log(1/x) is uniform where log(x) is
    "q_log_uniform": ("float", True, True, True),
    "q_log_uniform_values": ("float", True, True, False),
}
# Bells around `mu`: of the number or of its logarithm, rounded to `q` or not.
_BELLS = {
    "normal": (False, False),
    "q_normal": (False, True),
    "log_normal": (True, False),
    "q_log_normal": (True, True),
}
# What each distribution asks for, and what it takes besides.
_KEYS = {
    "constant": ({"value"}, set()),
    "categorical": ({"values"}, set()),
    "categorical_w_probabilities": ({"values", "probabilities"}, set()),
    **{name: ({"min", "max"}, {"q"} if rounds else set()) for name, (_, _, rounds, _) in _RANGES.items()},
    **{name: (set(), {"mu", "sigma"} | ({"q"} if rounds else set())) for name, (_, rounds) in _BELLS.items()},
}
_KNOWN = {"distribution", "parameters"}.union(*(needed | free for needed, free in _KEYS.values()))
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")  # as W&B takes them
_LARGEST_GRID = 100_000
_LARGEST_EXPONENT = 700.0  # of e, in double precision


class Parameter(NamedTuple):
    """One setting that is varied.

    Attributes:
        name: Dotted key, as on the command line without `--`.
        choices: Values to choose from; empty for a range or a bell.
        probabilities: Of the choices; empty where all are as likely.
        kind: Of numbers in a range.
        low: Least value of a range.
        high: Greatest value of a range.
        bell: Mean and standard deviation of a normal distribution in place of a range.
        log: Whether a range is searched by magnitude, or a bell is one of magnitudes.
        step: Numbers are multiples of it; None for any.
        note: What is probably not meant as it is written; empty for nothing.
    """

    name: str
    choices: tuple[Any, ...] = ()
    probabilities: tuple[float, ...] = ()
    kind: Literal["float", "int"] = "float"
    low: float = 0.0
    high: float = 0.0
    bell: tuple[float, float] | None = None
    log: bool = False
    step: float | None = None
    note: str = ""

    @property
    def by_quantile(self) -> bool:
        """Whether it is drawn by `at`, since Optuna has no such distribution."""
        return bool(self.probabilities) or self.bell is not None

    def at(self, quantile: float) -> Any:
        """Takes the value below which such a share of all draws lies.

        Args:
            quantile: Above 0 and below 1.
        """
        if self.bell is None:
            totals = list(itertools.accumulate(self.probabilities))
            return self.choices[bisect.bisect_right(totals[:-1], quantile * totals[-1])]
        value = NormalDist(*self.bell).inv_cdf(quantile) if self.bell[1] else self.bell[0]
        return self.rounded(math.exp(value) if self.log else value)

    def samples(self) -> tuple[Any, ...]:
        """Lists all choices, both ends of a range, or what of a bell one draw in a thousand is beyond."""
        if self.bell is not None:
            return self.at(0.001), self.at(0.999)
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
        if not isinstance(key, str) or not _NAME.fullmatch(key):
            raise ValueError(f"{where}: parameters.{name} is not a name; write one as trainer.max_steps")
        if not isinstance(options, Mapping):
            raise ValueError(f"{where}: parameters.{name} is {options!r}; write {{value: {options!r}}}")
        if unknown := [str(option) for option in options if option not in _KNOWN]:
            near = difflib.get_close_matches(unknown[0], _KNOWN, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(sorted(_KNOWN))}"
            raise ValueError(f"{where}: parameters.{name} has no key '{unknown[0]}'; {hint}")
        if "parameters" in options:
            nested = options["parameters"]
            if not isinstance(nested, Mapping) or not nested or len(options) > 1:
                raise ValueError(
                    f"{where}: parameters.{name}.parameters is not a mapping of names, or not alone there"
                )
            found += read_parameters(nested, where, f"{name}.")
        else:
            found.append(_read(name, options, where))
    names = [parameter.name for parameter in found]
    if doubled := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{where}: parameters.{doubled[0]} is given twice")
    return found


def _read(name: str, options: Mapping[str, Any], where: str) -> Parameter:
    at = f"{where}: parameters.{name}"
    distribution = _distribution(options, at)
    needed, free = _KEYS[distribution]
    given = options.keys() - {"distribution"}
    if given - needed - free or needed - given:
        keys = [*sorted(needed), *(f"perhaps {key}" for key in sorted(free))]
        raise ValueError(
            f"{at} has {', '.join(sorted(given)) or 'nothing'}; {distribution} takes {', '.join(keys)}"
        )
    if distribution == "constant":
        return Parameter(name, (_plain(options["value"], at),))
    if distribution.startswith("categorical"):
        return Parameter(name, _values(options["values"], at), _probabilities(options, at))
    for key in given:
        if isinstance(options[key], bool) or not isinstance(options[key], (int, float)):
            raise ValueError(f"{at}.{key} is {options[key]!r}, no number in YAML; write 1.0e-4 for 1e-4")
        if not math.isfinite(options[key]):
            raise ValueError(f"{at}.{key} is {options[key]}; give a finite number")
    step = float(options.get("q", 1)) if "q" in free else None
    if step is not None and step <= 0:
        raise ValueError(f"{at}.q is {step:g}; give a number above 0")
    if distribution in _BELLS:
        bell = float(options.get("mu", 0)), float(options.get("sigma", 1))
        log, _ = _BELLS[distribution]
        if bell[1] < 0 or (log and bell[0] + 5 * bell[1] > _LARGEST_EXPONENT):
            raise ValueError(f"{at}: mu {bell[0]:g} and sigma {bell[1]:g} are none of a {distribution}")
        note = ""
        if log and 0 < bell[0] < 1:  # a mean of values, most likely
            note = (
                f"{at}: mu and sigma of {distribution} are of the logarithm, so that values lie around "
                f"{math.exp(bell[0]):.6g}; for values around {bell[0]:g} write mu: {math.log(bell[0]):.4g}"
            )
        return Parameter(name, bell=bell, log=log, step=step, note=note)
    kind, log, _, exponents = _RANGES[distribution]
    low, high = options["min"], options["max"]
    if kind == "int" and not (isinstance(low, int) and isinstance(high, int)):
        raise ValueError(f"{at}: min {low} and max {high} of {distribution} are whole numbers")
    note = ""
    if low > high:
        raise ValueError(f"{at}: min {low:g} is above max {high:g}; swap them")
    if exponents:
        try:
            low, high = math.exp(low), math.exp(high)
        except OverflowError:
            raise ValueError(
                f"{at}: min and max of {distribution} are exponents of e; {distribution}_values takes values"
            ) from None
        if options["min"] >= 0 and options["max"] <= 1:  # rates and shares, most likely
            note = (
                f"{at}: min and max of {distribution} are exponents of e, as in W&B: values go from {low:.6g} "
                f"to {high:.6g}; {distribution}_values takes {options['min']:g} to {options['max']:g} as it is"
            )
    elif log and low <= 0:
        raise ValueError(f"{at}: min is {low:g}, but {distribution} needs one above 0, as in 1.0e-6")
    if low >= high:
        raise ValueError(
            f"{at}: min {low:g} to max {high:g} is not a range for {distribution}; give two numbers"
        )
    return Parameter(
        name,
        kind="int" if kind == "int" else "float",
        low=float(low),
        high=float(high),
        log=log,
        step=step,
        note=note,
    )


def _distribution(options: Mapping[str, Any], at: str) -> str:
    """Names the distribution, which W&B concludes from the keys where it is not given."""
    if (given := options.get("distribution")) is not None:
        if not isinstance(given, str) or given not in _KEYS:
            raise ValueError(f"{at}.distribution is {given!r}; known are {', '.join(_KEYS)}")
        return given
    for key, distribution in (
        ("probabilities", "categorical_w_probabilities"),
        ("values", "categorical"),
        ("value", "constant"),
    ):
        if key in options:
            return distribution
    if not {"min", "max"} <= options.keys():
        raise ValueError(f"{at} has neither value, nor values, nor min and max, nor a distribution")
    low, high = options["min"], options["max"]
    if isinstance(low, int) != isinstance(high, int):
        raise ValueError(
            f"{at}: min {low} and max {high} are of two kinds; write both with a point, or neither"
        )
    return "int_uniform" if isinstance(low, int) else "uniform"


def _values(given: Any, at: str) -> tuple[Any, ...]:
    if not isinstance(given, list) or not given:
        raise ValueError(f"{at}.values is {given!r}; give a list")
    texts = [json.dumps(_plain(value, at), sort_keys=True) for value in given]
    if doubled := [text for text in texts if texts.count(text) > 1]:
        raise ValueError(f"{at}.values has {doubled[0]} twice; leave one out")
    return tuple(given)


def _probabilities(options: Mapping[str, Any], at: str) -> tuple[float, ...]:
    if "probabilities" not in options:
        return ()
    given = options["probabilities"]
    if (
        not isinstance(given, list)
        or len(given) != len(options["values"])
        or not all(isinstance(one, (int, float)) and one >= 0 for one in given)
        or not math.isclose(sum(given), 1.0, rel_tol=1e-5)
    ):
        raise ValueError(f"{at}.probabilities is {given!r}; give one for each value, 1 in all")
    return tuple(map(float, given))


def _plain(value: Any, at: str) -> Any:
    """Refuses what JSON, by which trials are given their values, does not have: dates, nan, infinity."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        raise ValueError(
            f"{at} has {value!r}, which JSON has not; quote a date, and give numbers that are finite"
        ) from None
    return value


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
    if (number := math.prod(map(len, columns))) > _LARGEST_GRID:
        raise ValueError(
            f"{where}: the grid has {number:,} points; shorten it, or draw points by method random"
        )
    for values in itertools.product(*columns):
        yield {parameter.name: value for parameter, value in zip(parameters, values, strict=True)}


def _listed(parameter: Parameter, where: str) -> Sequence[Any]:
    if parameter.choices and not parameter.probabilities:
        return parameter.choices
    step = 1.0 if parameter.kind == "int" else parameter.step
    if step is None or parameter.log or parameter.by_quantile:
        raise ValueError(
            f"{where}: parameters.{parameter.name} is a range without steps, or has probabilities, which no "
            "grid covers; give values"
        )
    first, last = math.ceil(parameter.low / step - 1e-9), math.floor(parameter.high / step + 1e-9)
    if last - first >= _LARGEST_GRID:
        raise ValueError(f"{where}: parameters.{parameter.name} has {last - first + 1:,} values; give fewer")
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

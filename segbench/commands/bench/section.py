"""What a benchmark is made of: sections of cases, each measured by itself, and their rows of a table."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias, get_args, get_type_hints

import torch

from segbench.commands.bench.timing import Timing, peak_bytes, time_side_by_side
from segbench.utils.errors import readable

Row: TypeAlias = dict[str, Any]
"""Plain values by name, in SI units; a row with a `reason` says why there is nothing else in it."""

MISSING = "–"


class Clock(NamedTuple):
    """How to measure.

    Attributes:
        device: Where.
        repeats: Rounds that count.
        warm_up: Rounds before them, one in any case.
    """

    device: torch.device
    repeats: int = 5
    warm_up: int = 1


class Column(NamedTuple):
    """One column of a table.

    Attributes:
        title: Its head.
        value: What of a row it shows; None where the row has no such thing.
        text: How that is written.
        is_text: Whether it is words, which stand left.
    """

    title: str
    value: Callable[[Row], Any]
    text: Callable[[Any], str] = str
    is_text: bool = False


Measure: TypeAlias = Callable[[Clock], Iterable[Row]]


class Section(NamedTuple):
    """One table.

    Attributes:
        name: One word, by which it is chosen.
        title: Above the table.
        note: What must be known to read it.
        columns: Of the table.
        cases: What is measured, by name; rows of a case are compared with each other and with no others.
    """

    name: str
    title: str
    note: str
    columns: tuple[Column, ...]
    cases: Mapping[str, Measure]


def choose(sections: Iterable[Section], only: str | None) -> list[Section]:
    """Selects cases.

    Args:
        sections: All there are.
        only: Regular expression, found as whole words in a section's name and the case's.

    Returns:
        Sections with the chosen cases; those without any are left out.

    Raises:
        ValueError: If nothing is left, or the expression is none.
    """
    sections = list(sections)
    try:
        pattern = re.compile(rf"(?<!\w)(?:{only})(?!\w)" if only else "")
    except re.error as error:
        raise ValueError(f"--only {only!r} is not a regular expression: {error}") from None
    chosen = []
    for section in sections:
        cases = {n: case for n, case in section.cases.items() if pattern.search(f"{section.name} {n}")}
        if cases:
            chosen.append(section._replace(cases=cases))
    if not chosen:
        names = "; ".join(f"{section.name}: {', '.join(section.cases)}" for section in sections)
        raise ValueError(f"--only {only!r} fits none of these: {names}")
    return chosen


def compare(case: str, candidates: Mapping[str, Callable[[], object] | str], clock: Clock) -> list[Row]:
    """Measures time and peak memory of several callables in turn.

    Args:
        case: Name of what they all do.
        candidates: By name, the yardstick first; words instead of a callable say why there is none. A callable
            that fails at its first run is left out, and its row says why.
        clock: How to measure.

    Returns:
        A row for each: `case`, `variant`, `median_s`, `seconds`, `peak_bytes`, and `ratio`, `ratios`,
        `peak_ratio` to the yardstick, which are None where the yardstick could not be had.
    """
    reasons = {name: work for name, work in candidates.items() if isinstance(work, str)}
    runnable: dict[str, Callable[[], object]] = {}
    for name, work in candidates.items():
        if not isinstance(work, str):
            try:
                work()
                runnable[name] = work
            # RuntimeError: out of memory, no compiler, no such device. ValueError: our own refusals.
            except (ValueError, RuntimeError, MemoryError, ImportError) as error:
                reasons[name] = readable(error).partition(". ")[0]
    # That first run was a warm-up already.
    timings = time_side_by_side(runnable, clock.repeats, clock.device, max(0, clock.warm_up - 1))
    peaks = {name: peak_bytes(work, clock.device) for name, work in runnable.items()}
    yardstick = next(iter(candidates))
    return [
        {"case": case, "variant": name, "reason": reasons[name]}
        if name in reasons
        else _measured(case, name, timings[name], peaks[name], peaks.get(yardstick))
        for name in candidates
    ]


def _measured(case: str, name: str, timing: Timing, peak: int, yardstick_peak: int | None) -> Row:
    there = yardstick_peak is not None
    return {
        "case": case,
        "variant": name,
        "median_s": timing.median_s,
        "seconds": list(timing.seconds),
        "ratio": timing.ratio if there else None,
        "ratios": list(timing.ratios) if there else None,
        "peak_bytes": peak,
        "peak_ratio": peak / yardstick_peak if yardstick_peak else None,
    }


def backends(function: Callable[..., Any]) -> list[str]:
    """Lists what a function takes for `backend`, less `auto`; whether it works here shows when it is tried.

    Args:
        function: With an argument `backend`, typed as a `Literal`.

    Returns:
        Their names, "plain" first.
    """
    names = [name for name in get_args(get_type_hints(function)["backend"]) if name != "auto"]
    return sorted(names, key=lambda name: name != "plain")


def significant(value: float, digits: int = 3) -> str:
    """Writes a number with so many digits and no exponent.

    Args:
        value: Any number.
        digits: At least so many of them count.

    Returns:
        As 0.0123, 1.23, 123 or 12345.
    """
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])  # -2 of 0.0123
    return f"{value:.{max(0, digits - 1 - exponent)}f}"


def _extent(values: list[float] | None, scale: float) -> str | None:
    return f"{significant(scale * min(values))} to {significant(scale * max(values))}" if values else None


CASE = Column("case", lambda row: row["case"], is_text=True)
VARIANT = Column("how", lambda row: row["variant"], is_text=True)
COSTS = (
    Column("time, ms", lambda row: row.get("median_s"), lambda s: significant(1e3 * s)),
    Column("min to max", lambda row: _extent(row.get("seconds"), 1e3)),
    Column("ratio", lambda row: row.get("ratio"), "{:.3f}".format),
    Column("min to max", lambda row: _extent(row.get("ratios"), 1)),
    Column("peak, MiB", lambda row: row.get("peak_bytes"), lambda size: f"{size / 2**20:.1f}"),
    Column("ratio", lambda row: row.get("peak_ratio"), "{:.3f}".format),
)

"""What the doctor says: a fault, its extent, files as examples, and the YAML that fixes it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import yaml

from segbench.commands.doctor.examine import Record

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")
_EXTENDED = {"exclude", "ignore"}  # lists to add to; others, such as the palette, are replaced


class Finding(NamedTuple):
    """One fault of a dataset.

    Attributes:
        level: An error makes training or its scores wrong; a warning may; a note is worth knowing.
        name: What the fault is called.
        text: One sentence on what was found.
        files: Files it was found in, below the root.
        options: What the data module's options need to hold more, or instead, for the fault to be gone.
        advice: What to do where no option helps, or what else it could be.
    """

    level: Level
    name: str
    text: str
    files: Sequence[str] = ()
    options: Mapping[str, Any] = {}
    advice: str = ""


def remedy(
    findings: Iterable[Finding], given: Mapping[str, Any], accepted: Iterable[str]
) -> dict[str, Any] | None:
    """Merges the fixes of all findings into one overlay.

    A later `--config` replaces lists and dictionaries of an earlier one, so it repeats what was given before.

    Args:
        findings: The faults to fix.
        given: The options `remap`, `exclude` and so on, as they are.
        accepted: Names of the options that the dataset's class has.

    Returns:
        `{"data": {"init_args": …}}`, or `None` if no option helps.
    """
    merged: dict[str, Any] = {}
    known = set(accepted)
    for finding in findings:
        for name, value in finding.options.items():
            if name not in known:
                continue
            before = merged.get(name, given.get(name))
            if isinstance(value, dict):
                merged[name] = {**(before or {}), **value}
            elif name in _EXTENDED:
                merged[name] = list(dict.fromkeys([*(before or []), *value]))
            else:
                merged[name] = value
    return {"data": {"init_args": merged}} if merged else None


def as_yaml(overlay: Mapping[str, Any]) -> str:
    """Writes an overlay with each option on a line of its own."""
    text: str = yaml.safe_dump(
        dict(overlay), default_flow_style=None, sort_keys=False, width=2**20, allow_unicode=True
    )
    return text


def leave_out(bad: Iterable[Record], records: Sequence[Record]) -> dict[str, Any]:
    """Leaves images out, unless that leaves nothing of a split.

    Returns:
        The option `exclude`, or none.
    """
    images = {record.image for record in bad}
    remaining = {record.split for record in records if record.image not in images}
    return {"exclude": sorted(images)} if remaining == {record.split for record in records} else {}


def count(number: int, total: int, noun: str) -> str:
    """Says `3 of 20 masks`."""
    return f"{number} of {total} {noun}{'s' if total != 1 else ''}"

"""The live table of a sweep."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from segbench.commands.sweep.file import Sweep
from segbench.commands.sweep.study import Standing
from segbench.runs.settings import format_value, last_key
from segbench.utils.printable import escape_controls

_ROWS = 20
_STYLES = {"running": "cyan", "complete": "green", "pruned": "yellow", "failed": "red"}


def progress_table(sweep: Sweep, standings: Sequence[Standing]) -> Table:
    """Draws how a sweep stands.

    Args:
        sweep: The sweep.
        standings: Of all its trials.

    Returns:
        What runs, failed, and scored best, at most 20 rows in all.
    """
    ended = sum(standing.state in ("complete", "pruned") for standing in standings)
    counts = ", ".join(
        f"{number} {state}"
        for state in ("running", "waiting", "pruned", "failed")
        if (number := sum(standing.state == state for standing in standings))
    )
    title = f"{sweep.name}: {ended} of {sweep.trials} trials done" + (f" ({counts})" if counts else "")
    table = Table(title=Text(escape_controls(title)), title_justify="left")
    varied = [parameter for parameter in sweep.parameters if len(parameter.choices) != 1]
    for head in ("trial", "state", *(last_key(p.name) for p in varied), sweep.metric, "reports", "time"):
        table.add_column(Text(escape_controls(head)), overflow="fold")
    for standing in _chosen(sweep, standings):
        point = standing.point or {}
        table.add_row(
            str(standing.slot + 1),
            standing.state,
            *(Text(format_value(point[p.name]) if p.name in point else "") for p in varied),
            "" if standing.value is None else f"{standing.value:.4f}",
            str(standing.reports),
            "" if standing.seconds is None else clock(standing.seconds),
            style=_STYLES.get(standing.state),
        )
        if standing.note:
            table.add_row("", Text(escape_controls(standing.note)), style="red")
    return table


def clock(seconds: float) -> str:
    """Writes a duration as `1:02:03` or `2:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _chosen(sweep: Sweep, standings: Sequence[Standing]) -> list[Standing]:
    order = ("running", "failed", "complete", "pruned")

    def rank(standing: Standing) -> tuple[int, float, int]:
        value = 0.0 if standing.value is None else standing.value
        return order.index(standing.state), -value if sweep.goal == "maximize" else value, standing.slot

    begun = [standing for standing in standings if standing.state in order]
    return sorted(begun, key=rank)[:_ROWS]

"""Plots of the thesis's tables: ours on the left, the published figures on the right."""

from collections import defaultdict

import numpy as np

from segbench.commands.report.tables import Cell, Table
from segbench.visualization.charts import line_chart
from segbench.visualization.pictures import Image


def plot_table_1(table: Table) -> Image:
    """Draws mIoU over d_ms, a line for each L_ms.

    Args:
        table: Of `segbench.commands.report.meanshifter.tables.table_1`.

    Returns:
        Two panels.
    """
    dims = sorted({int(row[1]) for row in table.rows if row[1] is not None})
    panels = []
    for column, title in ((5, "ours"), (9, "thesis")):
        lines: dict[str, list[float | None]] = defaultdict(lambda: [None] * len(dims))
        for row in table.rows:
            if row[1] is None:
                lines[str(row[0])] = [_number(row[column])] * len(dims)
            else:
                lines[str(row[0])][dims.index(int(row[1]))] = _number(row[column])
        panels.append((title, lines))
    return _side_by_side(panels, "d_ms", [str(dim) for dim in dims])


def plot_table_2(table: Table) -> Image:
    """Draws mIoU over L'_ms, a line for each training.

    Args:
        table: Of `segbench.commands.report.meanshifter.tables.table_2`.

    Returns:
        Two panels.
    """
    counts = sorted({int(row[2]) for row in table.rows if row[2] is not None})
    panels = []
    for column, title in ((6, "ours"), (9, "thesis")):
        lines: dict[str, list[float | None]] = defaultdict(lambda: [None] * len(counts))
        for row in table.rows:
            lines[f"L_ms {row[0]}, d_ms {row[1]}"][counts.index(int(row[2] or 0))] = _number(row[column])
        panels.append((title, lines))
    return _side_by_side(panels, "L'_ms at test", [str(count) for count in counts])


def _side_by_side(
    panels: list[tuple[str, dict[str, list[float | None]]]], axis: str, ticks: list[str]
) -> Image:
    drawn = [
        line_chart(title, (axis, "mIoU, %"), ticks, lines)
        for title, lines in panels
        if any(value is not None for values in lines.values() for value in values)
    ]
    return np.concatenate(drawn, axis=1)


def _number(cell: Cell) -> float | None:
    return None if cell is None or isinstance(cell, str) or cell != cell else float(cell)

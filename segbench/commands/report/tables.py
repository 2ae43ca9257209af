"""Tables as Markdown and CSV."""

import csv
import io
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from segbench.utils.printable import for_markdown

Cell: TypeAlias = str | int | float | None
MISSING = "–"


class Table(NamedTuple):
    """A table.

    Attributes:
        name: Of its files.
        title: Above it.
        columns: Heads.
        rows: Of cells; numbers are not rounded yet, None is missing.
        notes: Below it.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()

    def markdown(self) -> str:
        """Writes it as Markdown, numbers to two decimals."""
        words = [any(isinstance(row[i], str) for row in self.rows) for i in range(len(self.columns))]
        lines = [
            f"## {for_markdown(self.title)}",
            "",
            _line(self.columns),
            "|" + "|".join("---" if word else "--:" for word in words) + "|",
            *(_line([_text(cell) for cell in row]) for row in self.rows),
            "",
            *(f"- {note}" for note in self.notes),
        ]
        return "\n".join(lines).rstrip() + "\n"

    def csv(self) -> str:
        """Writes it as CSV, numbers in full."""
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(["" if cell is None or cell != cell else cell for cell in row] for row in self.rows)
        return text.getvalue()


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(for_markdown(cell) for cell in cells) + " |"


def _text(cell: Cell) -> str:
    if cell is None or cell != cell:
        return MISSING
    if isinstance(cell, float):
        return f"{cell:.2f}"
    return f"{cell:,}" if isinstance(cell, int) else cell

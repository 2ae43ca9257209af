"""Writes what was measured: Markdown as it comes, and files after every case, for runs that are interrupted."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from segbench.commands.bench.section import MISSING, Clock, Column, Row, Section
from segbench.utils.files import atomic_write


class Report:
    """Markdown on stdout, and what the files will hold."""

    def __init__(
        self, circumstances: dict[str, Any], out: Path | None = None, json_file: Path | None = None
    ) -> None:
        """Begins with the circumstances.

        Args:
            circumstances: See `segbench.commands.bench.environment.circumstances`.
            out: Markdown file.
            json_file: JSON file.
        """
        self._lines: list[str] = []
        self._out, self._json_file = out, json_file
        self.content: dict[str, Any] = {"circumstances": circumstances, "sections": []}
        self._print(*(f"- {name}: {_words(value)}" for name, value in circumstances.items()))

    def run(self, sections: Iterable[Section], clock: Clock) -> None:
        """Measures all cases, and prints the rows of each as soon as they are known.

        Args:
            sections: What to measure.
            clock: How.
        """
        progress = Console(stderr=True)
        for section in sections:
            rows: list[Row] = []
            self.content["sections"].append({"name": section.name, "title": section.title, "rows": rows})
            columns = section.columns
            heads = [columns[0].title.ljust(max(map(len, section.cases)))] + [c.title for c in columns[1:]]
            widths: list[int] = []
            self._print("", f"### {section.title}", "", section.note, "")
            for number, (name, measure) in enumerate(section.cases.items(), 1):
                with progress.status(f"{section.name} {number} of {len(section.cases)}: {name}"):
                    measured = list(measure(clock))
                rows.extend(measured)
                cells = [[_cell(row, column) for column in columns] for row in measured]
                if not widths:  # as wide as the first case needs, and what else is known
                    plain = [line for line, row in zip(cells, measured, strict=True) if "reason" not in row]
                    widths = [max(map(len, column)) for column in zip(heads, *plain, strict=True)]
                    rule = [_rule(column, width) for column, width in zip(columns, widths, strict=True)]
                    self._print(_line(heads, columns, widths), f"|{'|'.join(rule)}|")
                self._print(*(_line(line, columns, widths) for line in cells))

    def _print(self, *lines: str) -> None:
        print(*lines, sep="\n", flush=True)
        self._lines += lines
        if self._out is not None:
            with atomic_write(self._out) as draft:
                draft.write_text("\n".join(self._lines) + "\n", encoding="utf-8")
        if self._json_file is not None:
            with atomic_write(self._json_file) as draft:
                draft.write_text(json.dumps(self.content, indent=1) + "\n", encoding="utf-8")


def _cell(row: Row, column: Column) -> str:
    value = column.value(row)
    text = MISSING if value is None else column.text(value)
    if column.title == "how" and "reason" in row:
        text += f" (not measured: {row['reason']})"
    return text.replace("|", "/")


def _line(cells: Sequence[str], columns: Sequence[Column], widths: Sequence[int]) -> str:
    padded = [
        cell.ljust(width) if column.is_text else cell.rjust(width)
        for cell, column, width in zip(cells, columns, widths, strict=True)
    ]
    return f"| {' | '.join(padded)} |"


def _rule(column: Column, width: int) -> str:
    return "-" * (width + 2) if column.is_text else "-" * (width + 1) + ":"


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {text}" for name, text in value.items())
    return str(value)

"""`metrics.csv`: everything logged, one row for each step, continued where a run is resumed.

Lightning's own CSVLogger deletes the file of an earlier run when it opens the folder.
"""

import csv
import io
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers.logger import Logger
from lightning_utilities.core.rank_zero import rank_zero_only

from segbench.utils.files import atomic_write, naming


class MetricsCSV(Logger):
    """Writes `metrics.csv` into a run folder, every value at once: a kill loses none that was logged."""

    def __init__(self, folder: Path) -> None:
        """Reads the rows of the run that is being continued, if there are any.

        Args:
            folder: The run folder.
        """
        super().__init__()
        self.path = folder / "metrics.csv"
        self._columns: list[str] = []
        self._last: dict[str, Any] = {}
        self._last_begins = 0  # bytes from the beginning of the file
        self._continued = self.path.is_file()
        self._checkpointed: dict[str, str] | None = None  # the last row of which the resumed checkpoint knows

    @property
    def name(self) -> str:
        """No subfolder."""
        return ""

    @property
    def version(self) -> str:
        """No subfolder."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Does nothing: `config.yaml` has them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Adds to the row of this step, or begins it.

        Args:
            metrics: Values by name.
            step: Optimiser step.
        """
        row = {"step": int(self._last.get("step", -1)) + 1 if step is None else step, **metrics}
        if self._continued:
            self._rewrite(self._rows_to_keep(row["step"]), [])
            self._continued = False
        same_step = str(self._last.get("step")) == str(row["step"])
        if same_step:
            row = self._last | row
        if row.keys() <= set(self._columns):
            with naming(self.path), self.path.open("r+b") as file:
                file.seek(self._last_begins if same_step else 0, io.SEEK_SET if same_step else io.SEEK_END)
                self._last_begins = file.tell()
                file.truncate()
                file.write(self._line(row))
        else:  # a column is new: rare, and the header stands first
            rows = self._read()
            self._rewrite(rows[:-1] if same_step else rows, [row])
        self._last = row

    @rank_zero_only
    def sync(self) -> dict[str, str]:
        """Makes sure that all rows survive a loss of power.

        Returns:
            The last row, as it stands in the file; for `resume_after`.
        """
        if self.path.is_file():
            with self.path.open("rb") as file:
                os.fsync(file.fileno())
        return {name: str(value) for name, value in self._last.items()}

    def resume_after(self, row: dict[str, str]) -> None:
        """Drops what a run that was killed logged after its last checkpoint, as soon as it logs again.

        Args:
            row: What `sync` returned when the checkpoint was made.
        """
        self._checkpointed = row

    def _rows_to_keep(self, step: float) -> list[dict[str, Any]]:
        """Reads the rows of the run that is continued, by a checkpoint or else by the first step logged now."""
        rows = [(_step(row), row) for row in self._read()]
        if self._checkpointed is None:
            return [row for at, row in rows if at <= step]
        last = self._checkpointed
        return [*(row for at, row in rows if at < _step(last)), last] if last else []

    def _read(self) -> list[dict[str, Any]]:
        if not self.path.is_file():
            return []
        with self.path.open(newline="", encoding="utf-8", errors="replace") as file:
            return [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]

    def _rewrite(self, rows: list[dict[str, Any]], more: list[dict[str, Any]]) -> None:
        """Rewrites the whole file."""
        rows = rows + more
        self._columns = list(dict.fromkeys(key for row in rows for key in row))
        lines = [self._line(row) for row in rows]
        header = self._line({column: column for column in self._columns})
        with atomic_write(self.path) as draft:
            draft.write_bytes(b"".join([header, *lines]))
        self._last = rows[-1] if rows else {}
        self._last_begins = len(header) + sum(map(len, lines[:-1]))

    def _line(self, row: dict[str, Any]) -> bytes:
        text = io.StringIO(newline="")
        csv.DictWriter(text, self._columns, lineterminator="\n").writerow(row)
        return text.getvalue().encode()


class MetricsRows(L.Callback):
    """Makes checkpoints and `metrics.csv` agree: each checkpoint knows the last row written before it."""

    def __init__(self) -> None:
        self._files: list[MetricsCSV] = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Finds the file, where a run trains: scoring a checkpoint continues no rows of its training."""
        files = [logger for logger in trainer.loggers if isinstance(logger, MetricsCSV)]
        self._files = files if stage == "fit" else []

    def state_dict(self) -> dict[str, Any]:
        """Makes sure that the file has reached the disk, and remembers its last row."""
        return {"row": next((file.sync() for file in self._files), None)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Returns the file after which row it is continued."""
        for file in self._files:
            if state_dict["row"] is not None:
                file.resume_after(state_dict["row"])


def _step(row: dict[str, Any]) -> float:
    """Reads a row's step; a row without one, as a damaged file may have, comes after all others."""
    try:
        return float(row["step"])
    except (KeyError, TypeError, ValueError):
        return float("inf")

"""`metrics.csv`: everything logged, one row for each step, continued where a run is resumed.

Lightning's own CSVLogger deletes the file of an earlier run when it opens the folder.
"""

import csv
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning_utilities.core.rank_zero import rank_zero_only

ROWS_BETWEEN_SAVES = 100


class MetricsCSV(Logger):
    """Writes `metrics.csv` into a run folder."""

    def __init__(self, folder: Path) -> None:
        """Reads the rows of the run that is being continued, if there are any.

        Args:
            folder: The run folder.
        """
        super().__init__()
        self.path = folder / "metrics.csv"
        self._rows: list[dict[str, Any]] = []
        self._unsaved = 0
        self._continued = self.path.is_file()
        if self._continued:
            with self.path.open(newline="") as file:
                self._rows = [
                    {key: value for key, value in row.items() if value} for row in csv.DictReader(file)
                ]

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
        """Adds to the row of this step.

        Args:
            metrics: Values by name.
            step: Optimiser step.
        """
        row = {"step": step if step is not None else len(self._rows), **metrics}
        if self._continued:
            # What an interrupted run logged after its last checkpoint is about to be logged again.
            self._rows = [old for old in self._rows if not _is_superseded(old, row)]
            self._continued = False
        if self._rows and str(self._rows[-1]["step"]) == str(row["step"]):
            self._rows[-1].update(row)
        else:
            self._rows.append(row)
        self._unsaved += 1
        if self._unsaved >= ROWS_BETWEEN_SAVES:
            self.save()

    @rank_zero_only
    def save(self) -> None:
        """Writes all rows, to a temporary file first."""
        if not self._unsaved:
            return
        columns = dict.fromkeys(key for row in self._rows for key in row)
        partial = self.path.with_suffix(".partial")
        with partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(columns))
            writer.writeheader()
            writer.writerows(self._rows)
        partial.replace(self.path)
        self._unsaved = 0

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Saves what is left."""
        self.save()


def _is_superseded(old: dict[str, Any], new: dict[str, Any]) -> bool:
    step = int(float(old["step"]))
    return step > new["step"] or (step == new["step"] and bool((old.keys() & new.keys()) - {"step", "epoch"}))

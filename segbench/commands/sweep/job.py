"""A trial's process, and what can be seen of it from outside."""

import csv
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from segbench.commands.sweep.study import Claim
from segbench.utils.lock import TIMEOUT_VARIABLE
from segbench.utils.posix import kill_group

# For a trial that was given up although it lives: its process learns that by its next heartbeat, and ends it.
_PATIENCE_S = 60


class Job:
    """`segbench fit` in a process of its own."""

    def __init__(self, args: Sequence[str], folder: Path, log: Path, environment: dict[str, str]) -> None:
        """Starts it.

        Args:
            args: Of segbench, the verb first.
            folder: Its run folder.
            log: File for what it prints; continued if there is one.
            environment: Variables on top of this process's.
        """
        self.folder = folder
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "segbench.commands.sweep.child_process", *args],
                stdin=subprocess.PIPE,  # whose end is the end of the process
                stdout=file,
                stderr=subprocess.STDOUT,
                env={TIMEOUT_VARIABLE: str(_PATIENCE_S), **os.environ, **environment},
                start_new_session=True,
            )

    def poll(self) -> int | None:
        """Returns the exit status, or None while it runs."""
        return self._process.poll()

    def kill(self) -> None:
        """Ends it with all its processes; run folders bear that."""
        if self._process.poll() is None:
            kill_group(self._process.pid)
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()

    def reports(self, metric: str) -> list[float]:
        """Reads the metric from metrics.csv, oldest first.

        Args:
            metric: Its column.
        """
        return read_metric(self.folder / "metrics.csv", metric)

    def error(self) -> str:
        """Finds in the log what went wrong."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        told = [line for line in lines if line.startswith("segbench: error: ")]
        told = told or [line for line in lines if line.strip()]
        return told[-1].removeprefix("segbench: error: ") if told else "it printed nothing"


def read_metric(path: Path, metric: str) -> list[float]:
    """Reads a column of metrics.csv.

    Args:
        path: The file; it may be missing, or be written to at this moment.
        metric: Its column.

    Returns:
        Values of the rows that have one, oldest first.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row.get(metric) for row in csv.DictReader(file)]
    except (OSError, UnicodeDecodeError, csv.Error):
        return []
    return [float(value) for value in rows if value]


def columns(path: Path) -> list[str]:
    """Names what metrics.csv has.

    Args:
        path: The file, complete.
    """
    with path.open(newline="", encoding="utf-8") as file:
        return next(csv.reader(file), [])


def run_folder(runs: Path, study: str, claim: Claim) -> Path:
    """Names the run folder of a trial.

    Args:
        runs: Folder of all runs.
        study: Name of the sweep.
        claim: The trial.

    Returns:
        As `runs/meanshift_table1/trial-0001`, counted from 1.
    """
    return runs / study / f"trial-{claim.slot + 1:04d}"

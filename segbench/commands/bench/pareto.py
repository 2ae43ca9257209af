"""Accuracy of runs against what their models cost."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from segbench.runs.run_json import data_digests, read_run_json
from segbench.visualization.charts import scatter_plot
from segbench.visualization.pictures import Image


class Run(NamedTuple):
    """What a run folder says.

    Attributes:
        config: Its config.yaml.
        experiment: Name of the folder of runs of the same experiment.
        scores: Mean IoU by split, as fractions.
        data: Digest of the files of each split; empty where none is recorded.
    """

    config: Path
    experiment: str
    scores: dict[str, float]
    data: dict[str, str]


# Section, variant, title and value of every cost that a plot can have.
COSTS: tuple[tuple[str, str | None, str, Callable[[Any], float]], ...] = (
    ("evaluation", "segbench", "evaluation of one image, ms", lambda row: 1e3 * row["median_s"]),
    ("training", "segbench", "training step, ms", lambda row: 1e3 * row["median_s"]),
    ("size", None, "forward pass of one image, GFLOP", lambda row: row["flops"]["total"] / 1e9),
)


def read_runs(folders: Iterable[Path]) -> dict[str, Run]:
    """Reads run folders.

    Args:
        folders: `runs/<experiment>/<run id>`.

    Returns:
        Runs by `<experiment>/<run id>`.

    Raises:
        ValueError: If a folder is none of a run that was scored.
    """
    runs = {}
    for folder in folders:
        place = folder.absolute()
        try:
            card = read_run_json(place)
        except FileNotFoundError:
            raise ValueError(f"{folder} is not a run folder: it has no run.json; leave it out") from None
        entries = card.get("scores", {})
        scores = {split: entry["miou"] for split, entry in entries.items() if entry["miou"] is not None}
        if not scores:
            raise ValueError(f"{folder} has no scores in its run.json; leave it out")
        runs["/".join(place.parts[-2:])] = Run(
            place / "config.yaml", place.parts[-2], scores, data_digests(card)
        )
    split = common_split(runs)
    found: dict[str, str] = {}
    for name, run in runs.items():
        if split in run.data:
            found.setdefault(run.data[split], name)
    if len(found) > 1:
        one, other = list(found.values())[:2]
        raise ValueError(f"{one} and {other} were scored on different {split} data: give runs on the same data")
    return runs


def common_split(runs: Mapping[str, Run]) -> str:
    """Finds the split on which all runs were scored.

    Args:
        runs: By name.

    Returns:
        "test" if all have that, else "val".

    Raises:
        ValueError: If there is none.
    """
    for split in ("test", "val"):
        if all(split in run.scores for run in runs.values()):
            return split
    told = "; ".join(f"{name}: {', '.join(run.scores) or 'none'}" for name, run in runs.items())
    raise ValueError(
        f"no split has scores of all runs ({told}); give the runs of one verb, all fit or all test"
    )


def plot(runs: Mapping[str, Run], sections: Sequence[Mapping[str, Any]]) -> Image | None:
    """Draws one panel for every cost that was measured.

    Args:
        runs: By the names of the cases.
        sections: With `name` and `rows`, as `segbench.commands.bench.report.Report.content` has them.

    Returns:
        The panels side by side; None if no cost was measured.
    """
    split = common_split(runs)
    panels = []
    for name, variant, title, value in COSTS:
        rows = [row for section in sections if section["name"] == name for row in section["rows"]]
        rows = [row for row in rows if row.get("variant") == variant and "reason" not in row]
        if rows:
            points = [(value(row), 100 * runs[row["case"]].scores[split]) for row in rows]
            names = [runs[row["case"]].experiment for row in rows]
            panels.append(scatter_plot("Accuracy against cost", (title, f"{split} mIoU, %"), names, points))
    return np.concatenate(panels, axis=1) if panels else None

"""The table of all runs: a row for each configuration, its settings only where rows differ."""

import statistics
from collections.abc import Sequence

from segbench.commands.report.groups import Group, group, varied
from segbench.commands.report.runs import METRICS, Run
from segbench.commands.report.tables import Cell, Table
from segbench.runs.settings import format_value, last_key

_HEADS = {"aacc": "aAcc", "macc": "mAcc", "miou": "mIoU"}


def overview(runs: Sequence[Run]) -> Table:
    """Makes the table.

    Args:
        runs: All of them, test scores attached.

    Returns:
        Mean scores of the runs of each configuration, and their standard deviation.
    """
    groups = group(runs)
    keys = varied(groups)
    names = [last_key(key) for key in keys]
    heads = [name if names.count(name) == 1 else key for name, key in zip(names, keys, strict=True)]
    splits = [split for split in ("val", "test") if any(one.scores(split) for one in groups)]
    columns = [f"{split} {_HEADS[metric]}" for split in splits for metric in METRICS]
    spread = [f"{split} mIoU ± s" for split in splits]
    rows = [
        (
            one.runs[0].folder.parent.name,
            *(format_value(one.settings[key]) if key in one.settings else "" for key in keys),
            len(one.runs),
            one.runs[0].parameters,
            *(cell for split in splits for cell in _means(one, split)),
            *(_spread(one, split) for split in splits),
        )
        for one in groups
    ]
    return Table(
        "runs",
        "All runs",
        ("experiment", *heads, "runs", "parameters", *columns, *spread),
        tuple(rows),
        (
            "Per cent. val: the best validation of each training; test: of its checkpoint.",
            "Means over runs that differ in seeds alone; s is their standard deviation (n − 1).",
            *_data_notes(runs, keys),
        ),
    )


def _data_notes(runs: Sequence[Run], keys: Sequence[str]) -> list[str]:
    """Says where each of several data sets lay."""
    if "data" not in keys:
        return []
    roots: dict[str, dict[str, None]] = {}
    for run in runs:
        root = str(run.setting("data.init_args.root", run.setting("data.class_path", "")))
        roots.setdefault(run.data_identity, {})[root] = None
    return [
        "Data sets are told apart by their classes, image names and files: "
        + "; ".join(f"{identity} in {', '.join(places)}" for identity, places in roots.items())
    ]


def _means(one: Group, split: str) -> list[Cell]:
    scores = one.scores(split)
    return (
        [statistics.fmean(column) for column in zip(*scores, strict=True)] if scores else [None] * len(METRICS)
    )


def _spread(one: Group, split: str) -> Cell:
    miou = [scores[-1] for scores in one.scores(split)]
    return statistics.stdev(miou) if len(miou) > 1 else None

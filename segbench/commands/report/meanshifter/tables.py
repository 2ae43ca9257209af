"""Tables 1 and 2 of the MeanShifter thesis: our figures beside the published ones."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from segbench.commands.report.groups import Group, group, medians, varied
from segbench.commands.report.meanshifter import published
from segbench.commands.report.runs import SPLITS, Run
from segbench.commands.report.tables import Cell, Table
from segbench.runs.settings import format_value, last_key

_LINEAR = "segbench.decoders.linear.LinearDecoder"
_MEAN_SHIFT = "segbench.necks.mean_shift.MeanShift"
# What makes it another block than the thesis's.
_AS_IN_THE_THESIS = {"bias": True, "normalize": False, "kernel": "softmax", "temperature": 1.0}
_FURTHER = re.compile(r"(?:val|test)_iterations_(\d+)")
_METRICS = ("aAcc", "mAcc", "mIoU")


class Shift(NamedTuple):
    """Which row of the thesis a run belongs to.

    Attributes:
        iterations: L_ms of training; 0 for the linear decoder alone.
        dim: d_ms; 0 for the linear decoder alone.
    """

    iterations: int
    dim: int


class Comparison(NamedTuple):
    """Runs that differ in mean shift and seeds alone.

    Attributes:
        title: What tells this comparison from others in the same report.
        about: Data, schedule and encoder of ours.
        same: Whether those are the thesis's.
        runs: By row.
    """

    title: str
    about: str
    same: bool
    runs: Mapping[Shift, Sequence[Run]]


def shift_of(run: Run) -> Shift | None:
    """Finds a run's row.

    Args:
        run: Any.

    Returns:
        None for another decoder, or a block that the thesis does not have.
    """
    if run.setting("model.init_args.decoder.class_path") != _LINEAR:
        return None
    necks = run.setting("model.init_args.necks") or []
    if not necks:
        return Shift(0, 0)
    options = necks[0].get("init_args") or {}
    changed = any(options.get(name, value) != value for name, value in _AS_IN_THE_THESIS.items())
    if len(necks) > 1 or necks[0].get("class_path") != _MEAN_SHIFT or changed:
        return None
    given = run.setting("model.init_args.neck_iterations")
    iterations = options.get("iterations", 1)
    if run.verb == "fit" and given is not None:
        iterations = given[0] if isinstance(given, list) else given
    return Shift(int(iterations), int(options.get("dim", 192)))


def comparisons(runs: Sequence[Run]) -> list[Comparison]:
    """Sorts runs into comparisons in which mean shift alone differs.

    Args:
        runs: Of any kind; those that are not rows of the thesis are left out, and so are lone linear decoders.

    Returns:
        One or more, or none.
    """
    rows = {run.folder: shift for run in runs if (shift := shift_of(run)) is not None}
    trained = {run.folder for run in runs if run.folder in rows and run.verb == "fit"}
    # What was scored belongs to its training, which says more of how it came about.
    scored = [run for run in runs if run.folder in rows and run.origin in trained]
    alone = [run for run in runs if run.folder in rows and run not in scored]
    groups = [
        one
        for one in group(alone, apart="model.init_args.neck")
        if any(rows[run.folder].iterations for run in one.runs)
    ]
    keys = varied(groups) if len(groups) > 1 else []
    found = []
    for one in groups:
        members = {run.folder for run in one.runs}
        by_row: dict[Shift, list[Run]] = defaultdict(list)
        for run in (*one.runs, *(run for run in scored if run.origin in members)):
            by_row[rows[run.folder]].append(run)
        told = ", ".join(f"{last_key(key)} {format_value(one.settings.get(key))}" for key in keys)
        found.append(Comparison(told, _about(one), _is_the_thesis(one), by_row))
    return found


def table_1(comparison: Comparison) -> Table | None:
    """Compares trainings with Table 1.

    Args:
        comparison: Runs, of which trainings count.

    Returns:
        A row for each published one; None if none of ours is there.
    """
    ours = {
        shift: [run for run in runs if run.verb == "fit" and "val" in run.scores]
        for shift, runs in comparison.runs.items()
    }
    shifts = [Shift(0, 0), *(Shift(*key) for key in published.TABLE_1)]
    shifts += sorted(ours.keys() - set(shifts))
    if not any(ours.values()):
        return None
    rows: list[tuple[Cell, ...]] = []
    for shift in shifts:
        runs = ours.get(shift, [])
        printed = published.LINEAR if not shift.dim else published.TABLE_1.get((shift.iterations, shift.dim))
        rows.append(
            (
                "linear" if not shift.dim else f"L_ms {shift.iterations}",
                shift.dim or None,
                len(runs),
                *_cells(medians([run.scores["val"] for run in runs])),
                runs[0].parameters / 1e6 if runs else None,
                *_cells(printed.scores if printed else None),
                f"{printed.parameters:.2f}{'*' if printed.runs > 1 else ''}" if printed else None,
            )
        )
    columns = (
        *("row", "d_ms", "runs"),
        *(f"ours {metric}" for metric in _METRICS),
        "ours, M parameters",
        *(f"thesis {metric}" for metric in _METRICS),
        "thesis, M parameters",
    )
    notes = (
        f"Ours: {comparison.about}; medians over seeds, of the best validation of each run.",
        "Thesis: ADE20K validation, 160,000 steps, ImageNet-21k weights; * median of 5 runs.",
        *_warning(comparison),
    )
    return Table(
        "table1", _titled("Mean shift: Table 1 of the thesis", comparison), columns, tuple(rows), notes
    )


def table_2(comparison: Comparison) -> Table | None:
    """Compares scores with other iterations at test time with Table 2.

    Args:
        comparison: Runs, of which those count that were scored without training.

    Returns:
        A row for each training and each L'_ms; None if none of ours is there.
    """
    ours: dict[tuple[Shift, int], list[tuple[float, float, float]]] = defaultdict(list)
    splits: set[str] = set()
    for shift, runs in comparison.runs.items():
        for run in runs:
            if run.verb != "fit" and shift.dim:
                for iterations, scores in scores_by_iterations(run, shift).items():
                    ours[shift, iterations].append(scores)
                extent = "" if run.limit is None else f" (trainer.limit_…_batches {run.limit})"
                splits.add(SPLITS[run.verb] + extent)
    if not ours:
        return None
    shifts = [Shift(*key) for key in published.TABLE_2]
    shifts += sorted({shift for shift, _ in ours} - set(shifts))
    counts = sorted({*published.ITERATIONS_AT_TEST, *(iterations for _, iterations in ours)})
    rows: list[tuple[Cell, ...]] = []
    for shift in shifts:
        for iterations in counts:
            printed = published.TABLE_2.get((shift.iterations, shift.dim))
            known = printed is not None and iterations in published.ITERATIONS_AT_TEST
            found = ours.get((shift, iterations), [])
            rows.append(
                (
                    *(shift.iterations, shift.dim, iterations, len(found)),
                    *_cells(medians(found)),
                    *_cells(printed[iterations - 1] if printed and known else None),
                )
            )
    columns = (
        *("L_ms", "d_ms", "L'_ms", "runs"),
        *(f"ours {metric}" for metric in _METRICS),
        *(f"thesis {metric}" for metric in _METRICS),
    )
    notes = (
        f"Ours: {comparison.about}; the checkpoints of the trainings on split {' and '.join(sorted(splits))}.",
        "Thesis: ADE20K validation.",
        *_warning(comparison),
    )
    return Table(
        "table2", _titled("Mean shift: Table 2 of the thesis", comparison), columns, tuple(rows), notes
    )


def scores_by_iterations(run: Run, shift: Shift) -> dict[int, tuple[float, float, float]]:
    """Sorts what was scored by the iterations at test time.

    Args:
        run: Of `test` or `validate`.
        shift: Its row.

    Returns:
        Scores by L'_ms.
    """
    given = run.setting("model.init_args.neck_iterations")
    first = given[0] if isinstance(given, list) else given
    found = {}
    for split, scores in run.scores.items():
        further = _FURTHER.fullmatch(split)
        found[int(further[1]) if further else int(shift.iterations if first is None else first)] = scores
    return found


def _cells(scores: tuple[float, float, float] | None) -> tuple[Cell, ...]:
    return (None, None, None) if scores is None else scores


def _about(one: Group) -> str:
    first = one.runs[0]
    data = format_value(first.setting("data.class_path"))
    options = first.setting("model.init_args.encoder.init_args", {})
    encoder = str(options.get("model_name", format_value(first.setting("model.init_args.encoder"))))
    if depths := options.get("depths"):
        encoder += f" up to block {max(depths)}, counted from 0"
    if not options.get("pretrained") or first.setting("model.init_args.from_scratch"):
        encoder += ", from random weights"
    steps = next((run.setting("trainer.max_steps") for run in one.runs if run.verb == "fit"), None)
    schedule = "" if steps is None else f", {steps:,} steps"
    return f"{data}{schedule}, {encoder}"


def _is_the_thesis(one: Group) -> bool:
    first = one.runs[0]
    steps = first.setting("trainer.max_steps") if first.verb == "fit" else published.STEPS
    return first.setting("data.class_path") == published.DATASET and steps == published.STEPS


def _warning(comparison: Comparison) -> tuple[str, ...]:
    if comparison.same:
        return ()
    return (
        "Other data or another schedule than the thesis's: the two halves cannot be compared value by value.",
    )


def _titled(title: str, comparison: Comparison) -> str:
    return f"{title} ({comparison.title})" if comparison.title else title

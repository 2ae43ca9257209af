"""Runs that differ in nothing but seeds, and in what groups of them differ."""

import json
import statistics
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from segbench.commands.report.runs import SPLITS, Run, flatten
from segbench.runs.settings import Effect, effect_of

# Of the trainer, what makes a difference to a run that only scores: `limit_test_batches` for `test`.
_SCORING = {verb: ("trainer.precision", f"trainer.limit_{split}_batches") for verb, split in SPLITS.items()}


class Group(NamedTuple):
    """Runs of one configuration.

    Attributes:
        runs: One for each seed.
        settings: Their configuration, flat, less what does not matter.
    """

    runs: tuple[Run, ...]
    settings: dict[str, Any]

    def scores(self, split: str) -> list[tuple[float, float, float]]:
        """Lists the scores of a split, one entry for each run that has them."""
        return [run.scores[split] for run in self.runs if split in run.scores]


def group(runs: Iterable[Run], apart: str = "") -> list[Group]:
    """Puts runs together that differ in seeds alone.

    Args:
        runs: In any order.
        apart: Beginning of further keys that do not count.

    Returns:
        In the order of their first runs.
    """
    found: dict[str, list[Run]] = {}
    settings: dict[str, dict[str, Any]] = {}
    for run in runs:
        flat = _settings(run)
        flat = {key: value for key, value in flat.items() if not (apart and key.startswith(apart))}
        identity = json.dumps(flat, sort_keys=True, default=str)
        found.setdefault(identity, []).append(run)
        settings[identity] = flat
    return [Group(tuple(members), settings[identity]) for identity, members in found.items()]


def repeats(runs: Iterable[Run]) -> list[Run]:
    """Finds trainings that another one repeats with the same seeds, and what scored them.

    They say nothing more of how far seeds lie apart, and would make a row look surer than it is.

    Args:
        runs: In any order; of trainings that are alike the last counts.

    Returns:
        Those that do not count.
    """
    runs = list(runs)
    last: dict[str, Run] = {}
    repeated = set()
    for run in runs:
        if run.verb == "fit":
            drawn = [run.setting(key) for key in ("seed_everything", "data.init_args.seed", "start.checkpoint")]
            identity = json.dumps([_settings(run), drawn], sort_keys=True, default=str)
            if identity in last:
                repeated.add(last[identity].folder.resolve())
            last[identity] = run
    return [run for run in runs if {run.folder.resolve(), run.origin} & repeated]


def _settings(run: Run) -> dict[str, Any]:
    """Reads what makes a difference to a run, flat, less its seeds."""
    flat = {
        key: value
        for key, value in flatten(run.config)
        if effect_of(key) not in (Effect.NONE, Effect.SEED)
        and not (key.startswith("trainer.") and run.verb in _SCORING and key not in _SCORING[run.verb])
    }
    flat["data"] = run.data_identity
    if flat.get("start.checkpoint") is not None:
        flat["start.checkpoint"] = "other weights"  # of whom does not count: each seed may have its own
    return flat


def varied(groups: Sequence[Group]) -> list[str]:
    """Finds the settings in which groups differ.

    Args:
        groups: Of `group`.

    Returns:
        Dotted keys, in the order of the configuration. Where some have a part that others lack, its class is
        named, and of its options those that are not the same wherever they are.
    """
    keys = dict.fromkeys(key for one in groups for key in one.settings)
    found = []
    for key in keys:
        there = [json.dumps(one.settings[key], default=str) for one in groups if key in one.settings]
        is_part = key.endswith(".class_path") and len(there) < len(groups)
        if is_part or len(set(there)) > 1:
            found.append(key)
    return found


def medians(scores: Sequence[tuple[float, float, float]]) -> tuple[float, float, float] | None:
    """Takes the median of each metric; None of no scores."""
    if not scores:
        return None
    first, second, third = (statistics.median(column) for column in zip(*scores, strict=True))
    return first, second, third


def attach_tests(runs: Sequence[Run]) -> list[Run]:
    """Gives trainings the test scores of their checkpoints.

    Args:
        runs: Of any verb.

    Returns:
        The trainings, and whatever was scored otherwise than it was trained, or without its training here.
    """
    trained = {run.folder.resolve(): run for run in runs if run.verb == "fit"}
    others = []
    for run in (run for run in runs if run.verb != "fit"):
        known = trained.get(run.origin) if run.origin is not None else None
        plain = known is not None and run.config.get("model") == known.config.get("model") and not run.limit
        if known is None or not plain or _on_other_data(run, known):
            others.append(run)
        else:
            trained[known.folder.resolve()] = known._replace(scores=run.scores | known.scores)
    return [*trained.values(), *others]


def _on_other_data(run: Run, other: Run) -> bool:
    """Returns whether a split that both runs saw, or their classes, differ."""
    return any(run.data[key] != other.data[key] for key in run.data.keys() & other.data.keys())

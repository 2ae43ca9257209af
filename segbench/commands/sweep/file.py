"""Sweep files in W&B's format (https://docs.wandb.ai/models/sweeps/define-sweep-configuration)."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from segbench.commands.sweep.space import Parameter, grid, read_parameters
from segbench.commands.sweep.trial_command import Command, read_command
from segbench.utils.fingerprint import json_hash
from segbench.utils.yaml_files import read_yaml

# What W&B knows besides, and what makes no difference on one's own machines.
_IGNORED = {"program", "project", "entity", "description", "controller", "apiVersion", "kind"}
_KEYS = {"name", "command", "method", "metric", "parameters", "early_terminate", "run_cap"}


class Sweep(NamedTuple):
    """A sweep file that was understood.

    Attributes:
        name: Of the file's `name:`, or of the file.
        command: What is run for every trial.
        method: How points are chosen.
        metric: Column of metrics.csv that is compared.
        goal: Whether more of it is better.
        parameters: What is varied.
        trials: How many trials there are.
        warm_up: Number of reports of the metric before a trial may be stopped early; None never stops one.
        identity: Changes with anything that makes trials incomparable.
    """

    name: str
    command: Command
    method: Literal["grid", "random", "bayes"]
    metric: str
    goal: Literal["maximize", "minimize"]
    parameters: tuple[Parameter, ...]
    trials: int
    warm_up: int | None
    identity: str


def read_sweep(path: Path, trials: int | None = None, more: Sequence[str] = ()) -> Sweep:
    """Reads a sweep file.

    Args:
        path: YAML.
        trials: How many, in place of the file's `run_cap`; of a grid all at most.
        more: Further arguments of every trial's command; the sweep's own parameters win over them.

    Returns:
        What it says.

    Raises:
        ValueError: If it is not a sweep, or holds what is not understood.
        FileNotFoundError: If the file does not exist.
    """
    if not path.exists():
        raise FileNotFoundError(f"sweep file not found: {path}")
    content = read_yaml(path)
    if not isinstance(content, dict) or not content.keys() >= {"command", "method", "parameters"}:
        raise ValueError(f"{path} is not a sweep: it needs command, method and parameters")
    for key in content.keys() - _KEYS - _IGNORED:
        near = difflib.get_close_matches(str(key), _KEYS | _IGNORED, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(sorted(_KEYS))}"
        raise ValueError(f"{path} has a key '{key}'; {hint}")
    method = content["method"]
    if method not in ("grid", "random", "bayes"):
        raise ValueError(f"{path}: method is {method!r}; give grid, random or bayes")
    if not isinstance(content["parameters"], Mapping) or not content["parameters"]:
        raise ValueError(f"{path}: parameters is not a mapping of names")
    parameters = tuple(read_parameters(content["parameters"], str(path)))
    command = read_command(content["command"], more, str(path))
    metric, goal = _metric(content.get("metric"), method, command.verb, path)
    cap = _count("run_cap", content.get("run_cap"), path) if trials is None else trials
    if cap is not None and cap < 1:
        raise ValueError(f"trials is {cap}; give at least 1")
    if method == "grid":
        number = sum(1 for _ in grid(parameters, str(path)))
        cap = number if cap is None else min(cap, number)
    if cap is None:
        raise ValueError(
            f"{path}: method {method} never ends by itself; give run_cap in the file, or --trials N"
        )
    told = [method, metric, goal, command, content["parameters"]]
    return Sweep(
        name=str(content.get("name") or path.stem),
        command=command,
        method=method,
        metric=metric,
        goal=goal,
        parameters=parameters,
        trials=cap,
        warm_up=_warm_up(content.get("early_terminate"), path),
        identity=json_hash(told, 16),
    )


def _metric(given: Any, method: str, verb: str, path: Path) -> tuple[str, Literal["maximize", "minimize"]]:
    if given is None and method != "bayes":
        return ("test/miou" if verb == "test" else "val/miou"), "maximize"
    if not isinstance(given, dict) or "name" not in given:
        raise ValueError(f"{path}: metric is {given!r}; write {{name: val/miou, goal: maximize}}")
    goal = given.get("goal", "minimize")  # as W&B takes it
    known = {"name", "goal", "target", "impute", "impute_while_running"}  # the last three are W&B's alone
    if goal not in ("maximize", "minimize") or given.keys() - known or not isinstance(given["name"], str):
        raise ValueError(f"{path}: metric is {given!r}; write {{name: val/miou, goal: maximize}}")
    return given["name"], goal


def _count(key: str, value: Any, path: Path) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ValueError(f"{path}: {key} is {value!r}; give a whole number from 1")
    return value


def _warm_up(given: Any, path: Path) -> int | None:
    """Takes the first rung of W&B's Hyperband for the place from which the median rule stops trials."""
    if given is None:
        return None
    known = {"type", "min_iter", "max_iter", "s", "eta", "strict"}
    if not isinstance(given, dict) or given.get("type") != "hyperband" or given.keys() - known:
        raise ValueError(f"{path}: early_terminate is {given!r}; write {{type: hyperband, min_iter: 3}}")
    if (first := _count("early_terminate.min_iter", given.get("min_iter"), path)) is not None:
        return first
    last, rungs, eta = given.get("max_iter"), given.get("s"), given.get("eta", 3)
    if not all(isinstance(number, (int, float)) for number in (last, rungs, eta)) or eta <= 1:
        raise ValueError(f"{path}: early_terminate needs min_iter, or max_iter and s, and eta above 1 if any")
    return max(1, int(last / eta**rungs))

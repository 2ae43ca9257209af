"""Sweep files: W&B reads them as we do, and every command line they make is one that segbench takes."""

import json
import math
from datetime import date
from pathlib import Path
from statistics import fmean, pstdev

import pytest
import yaml

from segbench.commands.sweep.file import read_sweep
from segbench.commands.sweep.space import covering, grid, read_parameters
from segbench.commands.sweep.trial_command import read_command
from segbench.training.arguments import resolve_config

ROOT = Path(__file__).parents[3]
FILES = sorted((ROOT / "experiments" / "sweeps").glob("*.yaml"))
AWKWARD = {
    "model.init_args.flip": {"values": [True, False]},
    "model.init_args.window": {"values": [None, [32, 48]]},
    "model.init_args.necks": {
        "values": [[{"class_path": "segbench.necks.mean_shift.MeanShift", "init_args": {"bias": False}}], []]
    },
    "model.init_args.optimizer.init_args.lr": {"values": [1e-05, 3.0]},
    "experiment": {"values": ["None", "no"]},
}
SWEEP = {
    "program": "segbench",
    "command": ["segbench", "fit", "--config", "experiments/meanshift.yaml", "--config", "${args_json_file}"],
    "method": "grid",
    "parameters": AWKWARD,
}


@pytest.fixture(autouse=True)
def _in_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def write(tmp_path, **changes):
    path = tmp_path / "sweep.yaml"
    path.write_text(
        yaml.safe_dump({key: value for key, value in (SWEEP | changes).items() if value is not None})
    )
    return path


# wandb leaves the sweep file open.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def agent_command(path, point, folder, monkeypatch):
    """What W&B's own agent would run for a point, as its server hands it out: no network, no process."""
    from wandb import wandb_agent
    from wandb.apis.public import sweeps as server
    from wandb.sdk.launch.sweeps import utils

    config = server._validate_config_and_fill_distribution(utils.load_sweep_config(str(path)))
    (folder / "wandb" / "sweep-s").mkdir(parents=True, exist_ok=True)
    for name, value in (("WANDB_DIR", str(folder)), ("WANDB_SWEEP_ID", "s"), ("WANDB_RUN_ID", "r")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", "")
    run = []
    monkeypatch.setattr(
        wandb_agent, "AgentProcess", lambda **options: run.append(options["command"]) or Process()
    )
    agent = wandb_agent.Agent.__new__(wandb_agent.Agent)
    agent._sweep_command, agent._in_jupyter, agent._function = list(config["command"]), False, None
    agent._forward_signals, agent._run_processes = False, {}
    args = {name: {"value": value} for name, value in sorted(point.items())}  # in whatever order
    agent._command_run({"run_id": "r", "program": config["program"], "args": args})
    return run[0]


class Process:
    last_sigterm_time = None


def points(path):
    return covering(read_sweep(path).parameters)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_agent_of_wandb_runs_what_we_run(path, tmp_path, monkeypatch):
    sweep = read_sweep(path)
    for point in points(path):
        theirs = agent_command(path, point, tmp_path, monkeypatch)
        ours = sweep.command.fill(point, tmp_path / "ours.json")
        assert theirs[0] == "segbench"
        if "${args_json_file}" in sweep.command.words:
            assert json.loads(Path(theirs[-1]).read_text()) == json.loads(Path(ours[-1]).read_text()) == point
            assert theirs[1:-1] == ours[:-1]
        else:
            assert sorted(theirs[1:]) == sorted(ours)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_segbench_takes_the_first_and_the_last_command_line(path, tmp_path, monkeypatch):
    check(path, [points(path)[0], points(path)[-1]], tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_segbench_takes_every_command_line(path, tmp_path, monkeypatch):
    sweep = read_sweep(path)
    every = list(grid(sweep.parameters, "")) if sweep.method == "grid" else points(path)
    check(path, every, tmp_path, monkeypatch)


def check(path, chosen, tmp_path, monkeypatch):
    if read_sweep(path).command.verb != "fit":
        pytest.skip("the checkpoints come from another sweep")
    for point in chosen:
        config = resolve_config(agent_command(path, point, tmp_path, monkeypatch)[1:])
        assert config["data"]["class_path"]
        for key, value in point.items():
            if key not in ("config", "overlay"):
                assert_within(value, look_up(config, key))


def look_up(config, key):
    for part in key.split("."):
        config = config[part]
    return config


def assert_within(given, resolved):
    """What was given stands in the resolved configuration, where defaults stand as well."""
    if isinstance(given, dict):
        for key, value in given.items():
            assert_within(value, resolved[key])
    elif isinstance(given, list):
        assert len(given) == len(resolved)
        for one, other in zip(given, resolved, strict=True):
            assert_within(one, other)
    else:
        assert (given, type(given)) == (resolved, type(resolved))


def test_null_booleans_lists_and_text_survive(tmp_path, monkeypatch):
    path = write(tmp_path)
    check(path, points(path), tmp_path, monkeypatch)


def test_table_1_has_every_row_of_the_thesis_and_table_2_its_checkpoints():
    from segbench.commands.report.meanshifter import published

    def row(necks):
        return (necks[0]["init_args"]["iterations"], necks[0]["init_args"]["dim"]) if necks else None

    trials = [
        point["model.init_args.necks"] for point in points(ROOT / "experiments/sweeps/meanshift_table1.yaml")
    ]
    assert [row(necks) for necks in trials] == [None, *published.TABLE_1]
    seeds = read_sweep(ROOT / "experiments/sweeps/meanshift_table1_seeds.yaml")
    starred = [None, *(key for key, printed in published.TABLE_1.items() if printed.runs == 5)]
    assert [row(necks) for necks in seeds.parameters[0].choices] == starred
    assert seeds.parameters[1].choices == (1, 2, 3, 4)
    (checkpoints,) = read_sweep(ROOT / "experiments/sweeps/meanshift_table2.yaml").parameters
    numbers = [int(Path(path).parts[2].removeprefix("trial-")) for path in checkpoints.choices]
    assert [row(trials[number - 1]) for number in numbers] == list(published.TABLE_2)


WRONG = {
    "a typo in the parameters": (
        {"parameters": {"model.init_args.flop": {"value": True}}},
        "trial {model.init_args.flop: true}: ",
    ),
    "a value of a wrong kind": ({"parameters": {"trainer.max_steps": {"values": [1, "many"]}}}, "many"),
    "one of several keys": (
        {"parameters": AWKWARD | {"model.init_args.stride": {"values": [None, 7.5]}}},
        "stride",
    ),
}


@pytest.mark.parametrize(("changes", "told"), WRONG.values(), ids=WRONG)
def test_what_the_parser_refuses_is_refused_before_anything_runs(changes, told, tmp_path, monkeypatch, capsys):
    from segbench.__main__ import main

    with pytest.raises(SystemExit):
        main(["sweep", str(write(tmp_path, **changes)), "--runs_dir", str(tmp_path / "runs")])
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("segbench: error: ")]
    assert len(errors) == 1
    assert told in errors[0]
    assert not (tmp_path / "runs").exists()


REFUSED = {
    "no method": ({"method": None}, "needs command, method and parameters"),
    "a typo": ({"methd": "grid"}, "did you mean 'method'?"),
    "another method": ({"method": "hyperband"}, "give grid, random or bayes"),
    "no cap": ({"method": "random"}, "run_cap in the file, or --trials N"),
    "no metric": ({"method": "bayes", "run_cap": 3}, "write {name: val/miou, goal: maximize}"),
    "another command": ({"command": ["python", "train.py", "${args}"]}, "command is none of segbench"),
    "no values": ({"command": ["segbench", "fit", "--config", "x.yaml"]}, "needs the trial's values once"),
    "a macro that garbles": ({"command": ["segbench", "fit", "${args_no_boolean_flags}"]}, "keeps all values"),
    "no --config": ({"command": ["segbench", "fit", "${args_json_file}"]}, "needs --config before"),
    "a missing variable": (
        {"command": ["segbench", "fit", "${envvar:NO_SUCH_X}", "${args}"]},
        "NO_SUCH_X; set it",
    ),
    "text for a number": ({"parameters": {"a": {"min": "1e-4", "max": 1.0}}}, "write 1.0e-4 for 1e-4"),
    "two kinds of number": ({"parameters": {"a": {"min": 0, "max": 1.0}}}, "of two kinds"),
    "an unknown distribution": (
        {"parameters": {"a": {"min": 1, "max": 2, "distribution": "cauchy"}}},
        "known are",
    ),
    "keys of two distributions": (
        {"parameters": {"a": {"value": 1, "values": [1, 2]}}},
        "has value, values; categorical takes values",
    ),
    "keys of another distribution": (
        {"parameters": {"a": {"min": 1, "max": 2, "q": 1}}},
        "has max, min, q; int_uniform takes max, min",
    ),
    "a broken end of whole numbers": (
        {"parameters": {"a": {"min": 0.5, "max": 2.5, "distribution": "int_uniform"}}},
        "min 0.5 and max 2.5 of int_uniform are whole numbers",
    ),
    "exponents that were meant as values": (
        {"parameters": {"a": {"min": 1, "max": 1000, "distribution": "log_uniform"}}},
        "log_uniform_values takes values",
    ),
    "a list for a distribution": (
        {"parameters": {"a": {"min": 1, "max": 2, "distribution": ["uniform"]}}},
        "known are",
    ),
    "a bell beyond all numbers": (
        {"parameters": {"a": {"distribution": "log_normal", "mu": 1000}}},
        "are none of a log_normal",
    ),
    "odds that are not probabilities": (
        {"parameters": {"a": {"values": [1, 2], "probabilities": [0.5, 0.6]}}},
        "give one for each value, 1 in all",
    ),
    "a date": ({"parameters": {"a": {"value": date(2024, 1, 1)}}}, "quote a date"),
    "not a number": ({"parameters": {"a": {"values": [float("nan")]}}}, "give numbers that are finite"),
    "no end": ({"parameters": {"a": {"min": 0.0, "max": float("inf")}}}, "give a finite number"),
    "nothing nested": ({"parameters": {"a": {"parameters": None}}}, "is not a mapping of names"),
    "a name that is none": ({"parameters": {"--a": {"value": 1}}}, "write one as trainer.max_steps"),
    "a number for a name": ({"parameters": {1: {"value": 1}}}, "write one as trainer.max_steps"),
    "a grid beyond measure": ({"parameters": {"a": {"min": 0, "max": 10**9}}}, "1,000,000,001 values"),
    "a grid of too many": (
        {"parameters": {name: {"min": 1, "max": 100} for name in "abc"}},
        "the grid has 1,000,000 points",
    ),
    "a grid with odds": (
        {"parameters": {"a": {"values": [1, 2], "probabilities": [0.5, 0.5]}}},
        "no grid covers",
    ),
    "a rule without base": (
        {"early_terminate": {"type": "hyperband", "max_iter": 27, "s": 2, "eta": 0}},
        "eta above 1",
    ),
    "a metric without name": ({"metric": {"name": None}}, "write {name: val/miou, goal: maximize}"),
    "a typo in a parameter": ({"parameters": {"a": {"vlaues": [1]}}}, "did you mean 'values'?"),
    "a bare value": ({"parameters": {"a": 3}}, "write {value: 3}"),
    "a value twice": ({"parameters": {"a": {"values": [None, None]}}}, "has null twice"),
    "a grid without end": ({"parameters": {"a": {"min": 0.0, "max": 1.0}}}, "no grid covers"),
    "an empty range": (
        {"method": "random", "run_cap": 1, "parameters": {"a": {"min": 2, "max": 1}}},
        "min 2 is above max 1; swap them",
    ),
    "another rule": ({"early_terminate": {"type": "envelope"}}, "write {type: hyperband, min_iter: 3}"),
}


@pytest.mark.parametrize(("changes", "told"), REFUSED.values(), ids=REFUSED)
def test_a_mistake_in_the_file_is_named_with_its_remedy(changes, told, tmp_path):
    path = write(tmp_path, **changes)
    with pytest.raises(ValueError, match=r".") as error:
        list(grid(read_sweep(path).parameters, str(path)))
    assert told in str(error.value)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_flags_that_would_garble_a_value_are_refused(tmp_path):
    command = read_command(["${env}", "python", "-m", "segbench", "fit", "${args}"], ["--more", "1"], "here")
    filled = command.fill({"trainer.max_steps": 3, "config": "x.yaml"}, tmp_path / "unused")
    assert filled == ["fit", "--config=x.yaml", "--more", "1", "--trainer.max_steps=3"]
    for value in (None, True, [1], {"a": 1}):
        with pytest.raises(ValueError, match="would garble"):
            command.fill({"x": value}, tmp_path / "unused")


def test_ranges_are_understood_as_wandb_understands_them():
    given = {
        "a": {"min": 1, "max": 3},
        "b": {"parameters": {"c": {"min": 0.0, "max": 0.3, "distribution": "q_uniform", "q": 0.1}}},
        "d": {"min": -2.302585092994046, "max": 0, "distribution": "log_uniform"},
        "e": {"min": 8, "max": 100, "distribution": "q_log_uniform_values", "q": 8},
    }
    a, c, d, e = read_parameters(given, "here")
    assert [point["b.c"] for point in grid([c], "here")] == [0.0, 0.1, 0.2, 0.3]
    assert [point["a"] for point in grid([a], "here")] == [1, 2, 3]
    assert (round(d.low, 6), d.high, d.log) == (0.1, 1.0, True)
    assert [e.rounded(value) for value in (8.0, 11.9, 12.1, 99.0)] == [8, 8, 16, 96]
    covered = covering([a, c, d, e])
    assert [point["a"] for point in covered] == [1, 3]
    assert all(type(point["e"]) is int for point in covered)


def test_bells_and_odds_are_drawn_as_wandb_draws_them():
    given = {
        "odds": {"values": ["a", None, [1]], "probabilities": [0.2, 0.0, 0.8]},
        "normal": {"distribution": "normal", "mu": 3, "sigma": 2},
        "rounded": {"distribution": "q_normal", "mu": 10.0, "sigma": 3.0, "q": 5},
        "magnitude": {"distribution": "log_normal", "mu": 1.0},
        "still": {"distribution": "normal", "mu": 7.5, "sigma": 0},
        "inverse": {"distribution": "inv_log_uniform_values", "min": 0.1, "max": 10},
    }
    odds, normal, rounded, magnitude, still, inverse = read_parameters(given, "here")
    quantiles = [(number + 0.5) / 1000 for number in range(1000)]
    drawn = [odds.at(quantile) for quantile in quantiles]
    assert (drawn.count("a"), drawn.count(None), drawn.count([1])) == (200, 0, 800)
    assert odds.samples() == ("a", None, [1])
    values = [normal.at(quantile) for quantile in quantiles]
    assert fmean(values) == pytest.approx(3, abs=1e-6)
    assert pstdev(values) == pytest.approx(2, rel=0.01)
    assert {rounded.at(quantile) for quantile in quantiles} == {0, 5, 10, 15, 20}
    logarithms = [math.log(magnitude.at(quantile)) for quantile in quantiles]
    assert (fmean(logarithms), pstdev(logarithms)) == pytest.approx((1, 1), rel=0.01)
    assert still.samples() == (7.5, 7.5)
    assert (inverse.low, inverse.high, inverse.log) == (0.1, 10, True)


def test_environment_variables_are_filled_in(monkeypatch, tmp_path):
    monkeypatch.setenv("CAMVID_ROOT", "/data set")
    path = write(
        tmp_path, command=["segbench", "fit", "--data.init_args.root", "${envvar:CAMVID_ROOT}", "${args}"]
    )
    assert read_sweep(path).command.words == ("--data.init_args.root", "/data set", "${args}")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            {"distribution": "log_uniform", "min": 1e-5, "max": 1e-2},
            "from 1.00001 to 1.01005; log_uniform_values",
        ),
        (
            {"distribution": "q_log_uniform", "min": 0.1, "max": 0.5, "q": 0.1},
            "q_log_uniform_values takes 0.1 to 0.5",
        ),
        (
            {"distribution": "log_normal", "mu": 1e-3, "sigma": 1.0},
            "values lie around 1.001; for values around 0.001",
        ),
        ({"distribution": "log_uniform", "min": -9.2, "max": -2.3}, ""),
        ({"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-2}, ""),
        ({"distribution": "log_normal", "mu": -6.9, "sigma": 1.0}, ""),
    ],
)
def test_exponents_that_look_like_values_are_said(options, told):
    (parameter,) = read_parameters({"lr": options}, "sweep.yaml")
    assert told in parameter.note
    assert bool(parameter.note) == bool(told)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"min": 1.0, "max": 0.1}, "min 1 is above max 0.1; swap them"),
        ({"distribution": "log_uniform_values", "min": 0, "max": 0.1}, "needs one above 0"),
        ({"distribution": "q_log_uniform_values", "min": -1, "max": 0.1}, "needs one above 0"),
        ({"distribution": "uniform", "min": 1, "max": 1}, "is not a range"),
    ],
)
def test_ranges_the_wrong_way_round(options, told):
    with pytest.raises(ValueError, match=r"parameters\.lr") as refused:
        read_parameters({"lr": options}, "sweep.yaml")
    assert told in str(refused.value)

"""Every experiment and the first trial of every sweep train for two steps on the twin of their dataset."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from tiny import two_steps

from segbench.__main__ import main
from segbench.commands.sweep.dry_run import overlay
from segbench.commands.sweep.file import read_sweep
from segbench.commands.sweep.space import covering
from segbench.training.arguments import resolve_config

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
FILES = sorted(EXPERIMENTS.glob("*.yaml"))
SWEEPS = sorted((EXPERIMENTS / "sweeps").glob("*.yaml"))

pytestmark = pytest.mark.smoke


@pytest.fixture(autouse=True)
def _beside_the_experiments(tmp_path, monkeypatch):
    """Change into a temporary folder with a link to the experiments."""
    monkeypatch.chdir(tmp_path)
    Path("experiments").symlink_to(EXPERIMENTS)


def fit(config, twins, *args):
    """Trains with `args`, which resolve to `config`, and returns the run folder."""
    Path("small.yaml").write_text(two_steps(config, twins(config["data"]["class_path"])))
    main(["fit", *args, "--config", "small.yaml", "--logger", "csv", "--runs_dir", "trained"])
    (run,) = Path("trained").glob("*/*")
    assert torch.load(run / "checkpoints" / "last.ckpt")["global_step"] == 2
    assert 0 <= json.loads((run / "run.json").read_text())["scores"]["val"]["miou"] <= 1
    return run


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_experiment(file, twins):
    fit(yaml.safe_load(file.read_text()), twins, "--config", str(file))


@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_first_trial_of_sweep(file, twins):
    sweep = read_sweep(file)
    point = covering(sweep.parameters)[0]
    args = sweep.command.fill(point, Path("trial.json"))
    if sweep.command.verb != "fit":
        score(args, point, twins)
        return
    config = resolve_config(args)
    twin = twins(config["data"]["class_path"])
    Path("dry_run.yaml").write_text(yaml.safe_dump(overlay(config, Path(twin["root"]))))
    fit(config, twins, *args[1:], "--config", "dry_run.yaml")


def score(args, point, twins):
    """Tests a checkpoint in place of one of another sweep."""
    experiment = EXPERIMENTS / "meanshift.yaml"
    run = fit(yaml.safe_load(experiment.read_text()), twins, "--config", str(experiment))
    checkpoint = Path(point["checkpoint"])
    checkpoint.parent.mkdir(parents=True)
    shutil.copy(run / "checkpoints" / "best.ckpt", checkpoint)
    resolve_config(args)
    main([*args, "--logger", "csv", "--runs_dir", "scored"])
    (card,) = Path("scored").glob("*/*/run.json")
    assert 0 <= json.loads(card.read_text())["scores"]["test"]["miou"] <= 1


def test_all_experiments_and_sweeps_are_found():
    assert len(FILES) >= 8
    assert len(SWEEPS) >= 7

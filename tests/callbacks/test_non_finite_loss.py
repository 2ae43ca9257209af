"""Trainings that diverge: whatever the intervals, nothing of it is saved, and none is called finished."""

import json
import re
from pathlib import Path

import pytest
import torch
from command_line import refuse
from processes import Processes
from tiny import EXPERIMENTS, overlay, training, vit

from segbench.__main__ import main

TINY = overlay(
    {"num_images": {"train": 10, "val": 2, "test": 1}},
    {"encoder": vit()},
    max_steps=9,
    val_check_interval=100,
    num_sanity_val_steps=0,
)
EMA = {"class_path": "lightning.pytorch.callbacks.EMAWeightAveraging", "init_args": {"decay": 0.5}}
LIGHTNING = {
    "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
    "init_args": {
        "dirpath": "elsewhere",
        "every_n_train_steps": 1,
        "save_top_k": -1,
        "save_weights_only": True,
    },
}
HUGE = ["--model.init_args.optimizer.init_args.lr", "1e30"]


@pytest.fixture
def fit(tmp_path, monkeypatch):
    """The arguments of a small training, in a fresh working directory."""
    monkeypatch.chdir(tmp_path)
    return training(tmp_path, TINY)


def poison(what, *others, **options):
    callbacks = [*others, {"class_path": "poison.Poison", "init_args": {"what": what, **options}}]
    return ["--trainer.callbacks", json.dumps(callbacks)]


def check_run():
    """Looks at what is left, and returns the run folder and the record of what happened."""
    (run,) = Path("runs").glob("*/*")
    assert json.loads((run / "run.json").read_text())["finished"] is False
    for path in Path().rglob("*.ckpt"):
        weights = torch.load(path, weights_only=True)["state_dict"].values()
        assert all(torch.isfinite(weight).all() for weight in weights)
    return run, json.loads((run / "divergence.json").read_text())


INTERVALS = {
    "saved often, logged seldom": ["--checkpoints.every_n_steps", "5", "--trainer.log_every_n_steps", "50"],
    "saved and logged at every step": ["--checkpoints.every_n_steps", "1", "--trainer.log_every_n_steps", "1"],
    "validated before it is logged": ["--trainer.val_check_interval", "3", "--trainer.log_every_n_steps", "4"],
    "neither": ["--checkpoints.every_n_steps", "0", "--trainer.log_every_n_steps", "0"],
    "never validated": ["--trainer.limit_val_batches", "0", "--checkpoints.every_n_steps", "2"],
    "accumulated": ["--trainer.accumulate_grad_batches", "2", "--checkpoints.every_n_steps", "1"],
    "averaged": ["--trainer.callbacks", json.dumps([EMA]), "--checkpoints.every_n_steps", "1"],
    "saved by Lightning": ["--trainer.callbacks", json.dumps([LIGHTNING]), "--checkpoints.every_n_steps", "0"],
    "in epochs": ["--trainer.max_steps", "-1", "--trainer.max_epochs", "2", "--checkpoints.every_n_steps", "3"],
}


@pytest.mark.parametrize("name", INTERVALS)
def test_no_interval_lets_a_diverged_training_be_saved_or_finished(fit, capsys, name):
    line = refuse(capsys, *fit, *HUGE, *INTERVALS[name])
    run, record = check_run()
    told = re.search(r"(\S+) is (nan|inf|-inf|not finite) at step (\d+): .* lower learning rate", line)
    assert told, line
    assert int(told[3]) == record["step"] <= 3
    assert told[1] == record["first"]
    assert f"{run}/divergence.json names the images" in line
    last = run / "checkpoints" / "last.ckpt"
    assert f"{last} is from before" in line if last.exists() else "no checkpoint was saved before" in line
    assert record["seed"] == 0
    assert {batch["step"] for batch in record["batches"]} <= {record["step"] - 1, record["step"]}
    for batch in record["batches"]:
        assert len(batch["images"]) == 2
        assert batch["rank"] == batch["epoch"] == 0
        assert {"train/cross_entropy", "train/loss"} == batch["losses"].keys()


def test_the_last_good_checkpoint_survives_and_the_term_is_named(fit, capsys):
    # The encoder's output is NaN in one step alone, the third.
    losses = [
        {"class_path": "segbench.losses.cross_entropy.CrossEntropy"},
        {"class_path": "segbench.losses.dice.Dice"},
    ]
    options = ["--model.init_args.losses", json.dumps(losses), "--checkpoints.every_n_steps", "1"]
    options += poison("image", step=2, until=3)
    line = refuse(capsys, *fit, *options)
    run, record = check_run()
    assert "train/cross_entropy is nan at step 3" in line
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2
    before, then = record["batches"]
    assert (before["step"], before["batch"], then["step"], then["batch"]) == (2, 1, 3, 2)
    assert then["losses"]["train/cross_entropy"] == "nan"
    assert before["losses"]["train/dice"] < 2
    assert before["images"] != then["images"]
    main([*fit, *options])  # resumes, to its end
    assert json.loads((run / "run.json").read_text())["finished"] is True
    assert not (run / "divergence.json").exists()


@pytest.mark.parametrize(
    ("what", "told"),
    {
        "weight": "decoder.head.weight is not finite at step 9",
        "optimizer": "optimizer_states.0.state.0.momentum_buffer is not finite at step 9",
        "logits": "the predicted logits of 2 images are not finite",
    }.items(),
)
def test_what_no_loss_shows_is_found_before_it_is_saved(fit, capsys, what, told):
    line = refuse(capsys, *fit, *poison(what, step=9))
    assert told in line
    assert "lower learning rate" in line
    run, record = check_run()
    assert record["step"] == 9
    if what == "logits":
        assert len(record["images"]) == 2
        assert "val/miou" not in (run / "metrics.csv").read_text()
        assert not (run / "checkpoints" / "best.ckpt").exists()


def test_statistics_of_batch_norms_are_looked_at(fit, capsys):
    fit[2] = str(EXPERIMENTS / "attention_unet.yaml")
    small = {"encoder": {"init_args": {"base_features": 8, "norm": "batch"}}}
    Path("tiny.yaml").write_text(overlay({}, small, max_steps=3, val_check_interval=100))
    line = refuse(capsys, *fit, *poison("buffer", step=2), "--checkpoints.every_n_steps", "1")
    assert re.search(r"encoder\S+running_mean is not finite at step 2", line)
    run, _ = check_run()
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 1


def scaled(init_scale):
    scaler = {"class_path": "torch.amp.GradScaler", "init_args": {"device": "cpu", "init_scale": init_scale}}
    plugin = {
        "class_path": "lightning.pytorch.plugins.MixedPrecision",
        "init_args": {"precision": "16-mixed", "device": "cpu", "scaler": scaler},
    }
    return ["--trainer.precision", "null", "--trainer.plugins", json.dumps([plugin])]


def test_steps_that_a_gradient_scaler_skips_are_no_fault(fit, capsys):
    main([*fit, *scaled(1024.0), *poison("gradient", step=2, until=4), "--checkpoints.every_n_steps", "1"])
    (run,) = Path("runs").glob("*/*")
    assert json.loads((run / "run.json").read_text())["finished"] is True
    assert not (run / "divergence.json").exists()


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize(("what", "scale"), [("gradient", 2e-4), ("image", 1024.0)])
def test_a_gradient_scaler_that_skips_every_step_is_a_fault(fit, capsys, what, scale):
    line = refuse(capsys, *fit, *scaled(scale), *poison(what, step=0))
    assert ("the loss scale is down to" if what == "gradient" else "train/cross_entropy is nan at step") in line
    check_run()


def test_a_mask_of_minus_infinity_is_no_fault():
    from segbench.functional.finite import first_fault

    mask = torch.tensor([0.0, -torch.inf])
    assert first_fault({"mask": mask, "count": torch.tensor(3)}) is None
    assert first_fault({"mask": mask}, "", {"mask"}) == "mask"
    assert first_fault([{"a": mask, "b": {"c": -mask}}], "states") == "states.0.b.c"
    assert first_fault({"half": torch.tensor([torch.nan], dtype=torch.bfloat16)}) == "half"


@pytest.mark.parametrize("verb", ["validate", "test"])
def test_logits_of_a_checkpoint_are_looked_at_when_it_is_scored(fit, capsys, verb):
    main([*fit, "--trainer.max_steps", "1"])
    (last,) = Path("runs").rglob("last.ckpt")
    state = torch.load(last, weights_only=True)
    state["state_dict"]["decoder.head.weight"][:] = 3e38  # finite, but no product of it
    torch.save(state, "spoilt.ckpt")
    line = refuse(capsys, verb, "--checkpoint", "spoilt.ckpt", "--panels.num_images", "0")
    assert "logits" in line
    assert "mean nothing" in line


@pytest.mark.slow
@pytest.mark.parametrize("what", ["image", "logits"])
def test_all_processes_end_alike_whichever_has_seen_it(fit, tmp_path, what):
    options = ["--trainer.devices", "2", "--data.init_args.batch_size", "1"]
    processes = Processes(2, [*fit, *options, *poison(what, step=2, rank=1, until=3)], tmp_path)
    assert processes.wait() == [2, 2]
    lines = [line for line in processes.output(0).splitlines() if line.startswith("segbench: error: ")]
    run, record = check_run()
    assert len(lines) == 1
    assert str(run) in lines[0]
    if what == "image":
        assert "train/cross_entropy is nan at step 3" in lines[0]
        assert [batch["rank"] for batch in record["batches"]] == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (HUGE, "such as those of val_000001"),
        (poison("optimizer", step=4), "the images of this step and the last are"),
    ],
)
def test_a_trial_run_names_its_images_and_no_file_that_is_gone(fit, capsys, more, named):
    line = refuse(capsys, *fit, *more, "--trainer.fast_dev_run", "4")
    assert named in line
    assert "divergence.json" not in line
    assert not list(Path("runs").glob("*/*"))

"""Trainings that end before a validation is due: their last weights are validated all the same, and once."""

import csv
import json
import os
from pathlib import Path

import pytest
import torch
from tiny import overlay, training, vit

from segbench.__main__ import main

TINY = overlay(
    {"num_images": {"train": 10, "val": 2, "test": 1}, "eval_batch_size": 1},
    {"encoder": vit()},
    max_steps=3,
    val_check_interval=500,
    log_every_n_steps=50,
)
STOP = {
    "class_path": "lightning.pytorch.callbacks.EarlyStopping",
    "init_args": {"monitor": "train/loss", "stopping_threshold": 1000.0, "check_on_train_epoch_end": True},
}


@pytest.fixture
def fit(tmp_path, monkeypatch):
    """The arguments of a small training, in a fresh working directory."""
    monkeypatch.chdir(tmp_path)
    return training(tmp_path, TINY)


def outcome():
    """Returns the run folder, its card and the rows of its log, of a run that must be whole."""
    (run,) = Path("runs").glob("*/mine")
    card = json.loads((run / "run.json").read_text())
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return run, card, rows


def send(**options):
    callback = {"class_path": "sender.Send", "init_args": options}
    return ["--trainer.callbacks", json.dumps([callback])]


ENDS = {
    "steps": ([], 3),
    "epochs": (["--trainer.max_steps", "-1", "--trainer.max_epochs", "1"], 5),
    "epochs that are validated in part": (
        [
            "--trainer.max_steps",
            "-1",
            "--trainer.max_epochs",
            "1",
            "--trainer.check_val_every_n_epoch",
            "2",
            "--trainer.val_check_interval",
            "1.0",
        ],
        5,
    ),
    "early stopping at the end of an epoch": (
        [
            "--trainer.max_steps",
            "100",
            "--trainer.log_every_n_steps",
            "5",
            "--trainer.callbacks",
            json.dumps([STOP]),
        ],
        5,
    ),
    "the interval itself": (["--trainer.val_check_interval", "3"], 3),
    "accumulated": (["--trainer.max_steps", "2", "--trainer.accumulate_grad_batches", "2"], 2),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_short_run_ends_with_scores_a_best_checkpoint_and_its_loss(fit, end):
    options, steps = ENDS[end]
    main([*fit, *options])
    run, card, rows = outcome()
    assert card["finished"] is True
    assert [entry["step"] for entry in card["history"]] == [steps]
    assert card["scores"]["val"]["step"] == steps
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert (run / "ledger.npz").is_file()
    (scored,) = [row for row in rows if row["val/miou"]]
    assert scored == rows[-1]
    assert int(scored["step"]) == steps - 1  # as Lightning counts
    assert float(scored["train/loss"]) > 0
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == steps


def test_a_run_that_is_timed_out_is_scored_and_its_checkpoint_tested_and_reported(fit, capsys):
    # A clock that has run out after the first step.
    timer = {"class_path": "out_of_time.AfterOneStep"}
    main([*fit, "--trainer.max_steps", "100", "--trainer.callbacks", json.dumps([timer])])
    run, card, _ = outcome()
    assert [entry["step"] for entry in card["history"]] == [1]
    main(["test", "--checkpoint", str(run / "checkpoints" / "best.ckpt"), "--panels.num_images", "0"])
    main(["report", "runs", "--out", "out"])
    assert "linear" in Path("out/report.md").read_text()
    assert "left out" not in capsys.readouterr().err


@pytest.mark.parametrize("where", ["train", "validation"])
def test_a_signal_is_not_kept_waiting_and_the_validation_is_made_up_for(fit, where):
    options = send(step=3, where=where)
    with pytest.raises(SystemExit) as left:
        main([*fit, *options])
    assert left.value.code == os.EX_TEMPFAIL
    run, card, rows = outcome()
    assert card["finished"] is False
    assert card["history"] == []
    assert not (run / "checkpoints" / "best.ckpt").exists()
    main([*fit, *options])  # no step is left
    run, card, rows = outcome()
    assert card["finished"] is True
    assert [entry["step"] for entry in card["history"]] == [3]
    assert (run / "checkpoints" / "best.ckpt").is_file()
    assert [int(row["step"]) for row in rows if row["val/miou"]] == [2]
    before = (run / "checkpoints" / "last.ckpt").read_bytes()
    main([*fit, *options])  # nor is a validation
    assert outcome()[1]["finished"] is True
    assert (run / "checkpoints" / "last.ckpt").read_bytes() == before


def test_without_validation_it_is_said_that_there_are_no_scores(fit, capsys):
    main([*fit, "--trainer.limit_val_batches", "0"])
    run, card, _ = outcome()
    last = run / "checkpoints" / "last.ckpt"
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("no scores")]
    assert line == (
        f"no scores: trainer.limit_val_batches is 0; `segbench validate --checkpoint {last}` makes them"
    )
    assert card["finished"] is True
    main(
        [
            "validate",
            "--checkpoint",
            str(last),
            "--trainer.limit_val_batches",
            "1.0",
            "--panels.num_images",
            "0",
        ]
    )


def test_a_small_run_is_not_told_to_log_more_often(fit, recwarn):
    main(fit)
    assert not [warning for warning in recwarn if "logging interval" in str(warning.message)]


def test_averaged_weights_are_what_is_validated_last_and_training_may_continue_from_its_own(fit):
    ema = {"class_path": "lightning.pytorch.callbacks.EMAWeightAveraging", "init_args": {"decay": 0.5}}
    main([*fit, "--trainer.callbacks", json.dumps([ema])])
    run, *_ = outcome()
    state = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    head = "decoder.head.weight"
    assert not torch.equal(state["state_dict"][head], state["current_model_state"][head])

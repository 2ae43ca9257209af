"""Lightning's flags for debugging do what Lightning says, or are refused in one line."""

import json
import warnings
from pathlib import Path

import pytest
from command_line import refuse
from tiny import overlay, vit

from segbench.__main__ import main
from segbench.runs.ledger_file import load_ledger

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
TINY = overlay(
    {"num_images": {"train": 10, "val": 4, "test": 4}, "eval_batch_size": 1, "augment": True},
    {"encoder": vit()},
    max_steps=4,
    val_check_interval=4,
    num_sanity_val_steps=0,
)


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """The options of a small training, in a fresh working directory, where a spy looks on."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)
    spy = json.dumps([{"class_path": "spy.Spy"}])
    options = ["--config", "tiny.yaml", "--panels.num_images", "0", "--trainer.callbacks", spy]
    return ["--config", str(EXPERIMENTS / "linear.yaml"), *options]


def shown(kind="train"):
    """Reads what the spy saw: images and the sum of their pixels, batch by batch."""
    lines = [json.loads(line) for line in Path("seen.jsonl").read_text().splitlines()]
    Path("seen.jsonl").unlink()
    return [(tuple(line["names"]), line["sum"]) for line in lines if line["kind"] == kind]


@pytest.mark.parametrize(("value", "batches"), [("1", 1), ("2", 2), ("0.4", 2)])
def test_overfit_batches_shows_the_same_batches_at_each_pass(tiny, value, batches):
    main(["fit", *tiny, "--trainer.overfit_batches", value, "--trainer.max_steps", "5", "--run_id", "mine"])
    seen = shown()
    assert len(set(seen)) == batches
    assert seen == (seen[:batches] * 5)[:5]
    (run,) = Path("runs").glob("*/mine")
    images = 1 if value in {"1", "0.4"} else 2  # of four in validation
    assert len(load_ledger(run / "ledger.npz").ledger.names) == images


def test_overfit_batches_leaves_samplers_of_ours_alone(tiny):
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        main(["fit", *tiny, "--trainer.overfit_batches", "2"])
    assert not [warning for warning in raised if "overfit" in str(warning.message)]


def test_a_run_that_overfits_resumes_on_the_same_batches(tiny):
    send = [{"class_path": "sender.Send", "init_args": {"step": 3}}, {"class_path": "spy.Spy"}]
    args = ["fit", *tiny[:-1], json.dumps(send), "--trainer.overfit_batches", "2", "--run_id", "mine"]
    with pytest.raises(SystemExit):
        main(args)
    before = shown()
    main(args)
    after = shown()
    # The spy sees the fourth batch twice, since the run is left as its step begins.
    assert [*before[:3], *after] == before[:2] * 2


def test_limits_count_batches_and_shares(tiny):
    main(["fit", *tiny, "--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "0.5"])
    train = shown()
    assert len(set(train)) == len(train) == 4  # shuffled: every epoch of two batches shows others
    (run,) = Path("runs").glob("*/*")
    assert len(load_ledger(run / "ledger.npz").ledger.names) == 2
    checkpoint = str(run / "checkpoints" / "best.ckpt")
    for verb, limit, value, images in (
        ("test", "limit_test_batches", "3", 3),
        ("test", "limit_test_batches", "0.25", 1),
        ("validate", "limit_val_batches", "1", 1),
    ):
        name = f"{limit}-{value}"
        options = [f"--trainer.{limit}", value, "--run_id", name, "--panels.num_images", "0"]
        main([verb, "--checkpoint", checkpoint, *options])
        (run,) = Path("runs").glob(f"*/{name}")
        assert len(load_ledger(run / "ledger.npz").ledger.names) == images
    main(["predict", "--checkpoint", checkpoint, "--trainer.limit_predict_batches", "2", "--run_id", "labels"])
    (run,) = Path("runs").glob("*/labels")
    assert len(list((run / "predictions").glob("*.png"))) == 2


def test_max_epochs_counts_limited_epochs(tiny):
    options = ["--trainer.max_steps", "-1", "--trainer.max_epochs", "3", "--trainer.limit_train_batches", "1"]
    main(["fit", *tiny, *options])
    assert len(shown()) == 3
    (run,) = Path("runs").glob("*/*")
    assert json.loads((run / "run.json").read_text())["history"][-1]["step"] == 3


@pytest.mark.parametrize(("value", "steps"), [("true", 1), ("3", 3)])
def test_fast_dev_run_goes_through_everything_and_keeps_nothing(tiny, capsys, value, steps):
    # Also where the schedule of the real training is longer than what is tried.
    warm = ["--model.init_args.schedule.init_args.warmup_steps", "100"]
    main(["fit", *tiny, *warm, "--trainer.fast_dev_run", value])
    lines = Path("seen.jsonl").read_text().splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["train"] * steps + ["val"] * steps
    assert {path.name for path in Path().iterdir()} == {"tiny.yaml", "seen.jsonl"}
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("fast_dev_run")]
    assert "nothing is kept" in line


def test_fast_dev_run_of_scoring_keeps_nothing_either(tiny, capsys):
    main(["fit", *tiny, "--trainer.max_steps", "1", "--run_id", "mine"])
    before = sorted(Path().rglob("*"))
    (last,) = Path("runs").rglob("last.ckpt")
    main(["test", "--checkpoint", str(last), "--trainer.fast_dev_run", "2"])
    assert sorted(Path().rglob("*")) == before


def test_detect_anomaly_ends_in_one_line(tiny, capsys):
    options = ["--trainer.detect_anomaly", "true", "--model.init_args.optimizer.init_args.lr", "1e30"]
    with pytest.warns(UserWarning, match="Traceback of forward call"):
        line = refuse(capsys, "fit", *tiny, *options)
    assert "a gradient is NaN, and trainer.detect_anomaly ends the training there" in line


REFUSED = {
    "barebones": (["--trainer.barebones", "true"], "trainer.barebones"),
    "no checkpoints": (["--trainer.enable_checkpointing", "false"], "trainer.enable_checkpointing"),
    "no batches": (["--trainer.limit_train_batches", "0"], "trainer.limit_train_batches"),
    "less than one batch": (["--trainer.limit_train_batches", "0.1"], "limit_train_batches"),
    "less than one to overfit": (["--trainer.overfit_batches", "0.1"], "0.1"),
    "no epochs": (["--trainer.max_steps", "-1", "--trainer.max_epochs", "0"], "nothing was trained"),
    "no time": (["--trainer.max_time", "00:00:00:00"], "nothing was trained"),
    "no steps": (["--trainer.max_steps", "0"], "raise trainer.max_steps"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_leaves_nothing_is_refused_in_one_line(tiny, capsys, name):
    options, told = REFUSED[name]
    assert told in refuse(capsys, "fit", *tiny, *options)
    for card in Path("runs").rglob("run.json"):
        assert json.loads(card.read_text())["finished"] is False


def test_a_test_of_no_batches_is_refused(tiny, capsys):
    main(["fit", *tiny, "--trainer.max_steps", "1"])
    (last,) = Path("runs").rglob("last.ckpt")
    for verb, limit in (("test", "limit_test_batches"), ("validate", "limit_val_batches")):
        line = refuse(capsys, verb, "--checkpoint", str(last), f"--trainer.{limit}", "0")
        assert f"trainer.{limit}: with 0 batches {verb} does nothing" in line


@pytest.mark.parametrize("profiler", ["simple", "advanced"])
def test_profilers_report(tiny, caplog, profiler):
    main(["fit", *tiny, "--trainer.profiler", profiler, "--trainer.max_steps", "1"])
    assert "Profiler Report" in caplog.text


def test_sanity_checks_validate_as_many_batches_as_asked_and_count_for_nothing(tiny):
    main(["fit", *tiny, "--trainer.num_sanity_val_steps", "2", "--trainer.max_steps", "1"])
    assert len(shown("val")) == 2 + 4
    (run,) = Path("runs").glob("*/*")
    assert [entry["step"] for entry in json.loads((run / "run.json").read_text())["history"]] == [1]

"""`segbench sweep` with real trainings, killed and continued."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch
import yaml

from segbench.__main__ import main
from segbench.commands.sweep.dry_run import SYNTHETIC, has_twin, images, overlay
from segbench.commands.sweep.job import Job

EXPERIMENTS = Path(__file__).parents[3] / "experiments"
SMALL = {
    "data": {
        "class_path": SYNTHETIC,
        "init_args": {
            "num_classes": 4,
            "image_size": [64, 64],
            "num_images": {"train": 10, "val": 5, "test": 3},
            "img_size": [32, 32],
            "batch_size": 2,
            "num_workers": 0,
        },
    },
    "model": {
        "init_args": {
            "encoder": {
                "init_args": {"model_name": "vit_tiny_patch16_384", "pretrained": False, "depths": [0]}
            },
            "window": None,
            "stride": None,
            "resize": None,
        }
    },
    "trainer": {
        "accelerator": "cpu",
        "devices": 1,
        "max_steps": 60,
        "val_check_interval": 3,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    },
    "checkpoints": {"every_n_steps": 3},
    "panels": {"num_images": 0},
}
SWEEP = {
    "command": [
        "segbench",
        "fit",
        "--config",
        str(EXPERIMENTS / "meanshift.yaml"),
        "--config",
        "${args_json_file}",
    ],
    "method": "grid",
    "metric": {"name": "val/miou", "goal": "maximize"},
    "parameters": {"model.init_args.neck_iterations": {"values": [1, 2, 3]}},
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("table.yaml").write_text(yaml.safe_dump(SWEEP))
    Path("small.yaml").write_text(yaml.safe_dump(SMALL))
    return tmp_path


def begin(*options):
    words = [sys.executable, "-m", "segbench", "sweep", "table.yaml", *options, "--", "--config", "small.yaml"]
    with Path("log").open("a") as log:
        return subprocess.Popen(words, stdout=log, stderr=log, env=os.environ | {"COLUMNS": "200"})


def cards():
    return {
        path.parent.name: json.loads(path.read_text()) for path in sorted(Path("runs/table").glob("*/run.json"))
    }


def wait_for(condition, process):
    while not condition():
        assert process.poll() is None, Path("log").read_text()
        time.sleep(0.05)


class Inside(Job):
    """A trial that is run in this process, all of it as it is started."""

    def __init__(self, args, folder, log, environment):
        self.folder, self.log, self.status = folder, log, 0
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as file, redirect_stdout(file), redirect_stderr(file):
            try:
                main(list(args))
            except SystemExit as stop:
                self.status = stop.code

    def poll(self):
        return self.status

    def kill(self):
        pass


@pytest.fixture
def inside(place, monkeypatch):
    """Sweeps whose trials need no process of their own, which take a few steps each."""
    monkeypatch.setattr("segbench.commands.sweep.job.Job", Inside)
    few = {"max_steps": 3, "log_every_n_steps": 2, "num_sanity_val_steps": 0}
    small = SMALL | {"trainer": SMALL["trainer"] | few}
    Path("small.yaml").write_text(yaml.safe_dump(small))
    return lambda *more: main(["sweep", "table.yaml", *more, "--", "--config", "small.yaml"])


def test_every_trial_has_a_run_folder_of_its_number_and_the_dry_run_none(inside, capsys):
    inside("--trials", "2")
    assert {path.name for path in Path("runs/table").iterdir()} == {"study.db", "trial-0001", "trial-0002"}
    assert [path.name for path in Path("runs").iterdir()] == ["table"]
    for number, card in enumerate(cards().values(), 1):
        assert card["finished"]
        assert card["history"][-1]["step"] == 3
        assert json.loads(Path(f"runs/table/trial-000{number}/trial.json").read_text()) == {
            "model.init_args.neck_iterations": number
        }
    told = capsys.readouterr().out
    assert "dry run of the first trial on drawn scenes: it trains, validates and saves" in told
    assert "2 of 2 trials done" in told
    before = {path: path.read_bytes() for path in Path("runs/table").glob("*/run.json")}
    inside("--trials", "2")  # nothing is left to do
    assert before == {path: path.read_bytes() for path in Path("runs/table").glob("*/run.json")}


def test_a_stopped_trial_resumes_in_its_folder_with_any_logger(inside, capsys):
    def saved():
        return torch.load("runs/table/trial-0001/checkpoints/last.ckpt")["global_step"]

    small = yaml.safe_load(Path("small.yaml").read_text())
    callback = {"class_path": "sender.Send", "init_args": {"step": 2}}  # SIGTERM, once
    small["trainer"]["callbacks"] = [callback]
    Path("small.yaml").write_text(yaml.safe_dump(small))
    study = ["--trials", "1", "--dry_run", "false"]
    with pytest.raises(SystemExit):
        inside(*study)
    assert saved() == 2
    assert "trial 1 failed: neck_iterations=1: status 75" in capsys.readouterr().out
    inside(*study, "--logger", "tensorboard")
    assert saved() == 3
    assert [entry["step"] for entry in cards()["trial-0001"]["history"]] == [3]


def test_a_metric_that_is_never_logged_is_found_out_on_drawn_scenes(inside, capsys):
    Path("table.yaml").write_text(yaml.safe_dump(SWEEP | {"metric": {"name": "val/mIoU", "goal": "maximize"}}))
    with pytest.raises(SystemExit):
        inside()
    told = capsys.readouterr().err
    assert "the first trial logs no 'val/mIoU', which metric names, but " in told
    assert "val/miou" in told
    assert not Path("runs").exists()
    Path("table.yaml").write_text(
        yaml.safe_dump(SWEEP | {"metric": {"name": "train/loss", "goal": "minimize"}})
    )
    inside("--trials", "1")  # which a single step would not log otherwise


def test_interrupted_scoring_is_repeated(inside, capsys):
    inside("--trials", "1", "--dry_run", "false")
    scoring = {
        "command": ["segbench", "test", "--trainer.accelerator", "cpu", "${args}"],
        "method": "grid",
        "parameters": {"checkpoint": {"value": "runs/table/trial-0001/checkpoints/best.ckpt"}},
    }
    Path("scores.yaml").write_text(yaml.safe_dump(scoring))
    folder = Path("runs/scores/trial-0001")

    class Lost(Inside):
        def poll(self):
            raise KeyboardInterrupt  # its sweep ends when the trial has, and before that is noted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segbench.commands.sweep.job.Job", Lost)
        with pytest.raises(SystemExit):
            main(["sweep", "scores.yaml"])
    assert json.loads((folder / "run.json").read_text())["finished"]
    capsys.readouterr()
    main(["sweep", "scores.yaml"])
    assert "1 of 1 trials done" in capsys.readouterr().out
    with (folder / "metrics.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 1


@pytest.mark.slow
def test_a_sweep_killed_twice_repeats_no_trial_and_resumes_within_one(place):
    process = begin()  # with its dry run
    wait_for(lambda: len(cards()) == 1 and len(next(iter(cards().values()))["history"]) >= 3, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process = begin()
    wait_for(lambda: len(cards()) == 2 and cards()["trial-0002"]["finished"], process)
    first = cards()["trial-0002"]
    wait_for(lambda: len(cards()) == 3, process)  # trial 1 waits until it counts as abandoned
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert begin("--workers", "2").wait(500) == 0, Path("log").read_text()
    log = Path("log").read_text()
    assert log.count("dry run of the first trial on drawn scenes: it trains") == 1
    assert log.count("trial 2 started") == 1
    assert "3 of 3 trials done" in log
    after = cards()
    assert after.keys() == {"trial-0001", "trial-0002", "trial-0003"}
    assert after["trial-0002"] == first
    assert after["trial-0001"]["checkpoint"].endswith("trial-0001/checkpoints/last.ckpt")  # it resumed
    for number, card in enumerate(after.values(), 1):
        assert card["finished"]
        assert [entry["step"] for entry in card["history"]] == list(range(3, 61, 3))
        config = yaml.safe_load(Path(f"runs/table/trial-000{number}/config.yaml").read_text())
        assert config["model"]["init_args"]["neck_iterations"] == number
    main(["report", "runs/table", "--out", "report"])
    assert "neck_iterations" in Path("report/report.md").read_text()


@pytest.mark.slow
def test_a_trial_that_cannot_train_is_found_out_on_drawn_scenes(place, capfd):
    Path("table.yaml").write_text(
        yaml.safe_dump(SWEEP | {"parameters": {"model.init_args.necks": {"value": []}, **SWEEP["parameters"]}})
    )
    with pytest.raises(SystemExit):
        main(["sweep", "table.yaml", "--", "--config", "small.yaml"])
    told = capfd.readouterr().err
    assert "the first trial fails on drawn scenes already: neck_iterations: 1 given" in told
    assert not Path("runs").exists()


def test_run_folders_of_another_storage_are_not_touched(place, capsys):
    Path("runs/table/trial-0001").mkdir(parents=True)
    Path("runs/table/trial-0001/run.json").write_text("{}")
    with pytest.raises(SystemExit):
        main(["sweep", "table.yaml", "--dry_run", "false", "--", "--config", "small.yaml"])
    assert "belongs to an earlier sweep that this storage does not know" in capsys.readouterr().err
    assert Path("runs/table/trial-0001/run.json").read_text() == "{}"


WRONG = {
    "no file": (["nothing.yaml"], "sweep file not found: nothing.yaml"),
    "no worker": (["table.yaml", "--workers", "0"], "workers is 0"),
    "no trial": (["table.yaml", "--trials", "0"], "trials is 0"),
    "a path for a name": (["table.yaml", "--study", "../x"], "becomes a folder"),
    "one name for two": (["table.yaml", "small.yaml", "--study", "x"], "names one sweep"),
    "no sweep": (["small.yaml"], "it needs command, method and parameters"),
}


@pytest.mark.parametrize(("args", "told"), WRONG.values(), ids=WRONG)
def test_a_wrong_option_is_told_in_a_line(args, told, place, capsys):
    with pytest.raises(SystemExit):
        main(["sweep", *args])
    assert told in capsys.readouterr().err
    assert not Path("runs").exists()


def test_a_dry_run_keeps_batch_and_crop_and_takes_a_twin_that_fits():
    model = {"init_args": {"from_scratch": False, "schedule": {"init_args": {"warmup_steps": 1500}}}}
    sizes = {"img_size": [512, 512], "batch_size": 16, "num_workers": None}
    own = {
        "data": {"class_path": "segbench.data.camvid.CamVid", "init_args": sizes | {"cache": True}},
        "model": model,
    }
    laid_over = overlay(own, Path("twin"))
    assert has_twin(own)
    assert laid_over["data"] == {"init_args": {"root": "twin", "num_workers": 0, "cache": False}}
    assert laid_over["model"] == {
        "init_args": {"from_scratch": True, "schedule": {"init_args": {"warmup_steps": 0}}}
    }
    assert images(own) == 32
    free = {"class_path": "segbench.data.folder.FolderDataModule", "init_args": sizes | {"classes": "c.txt"}}
    laid_over = overlay({"data": free, "model": model}, Path("twin"))
    assert laid_over["data"]["class_path"] == SYNTHETIC
    assert laid_over["data"]["init_args"]["batch_size"] == 16
    assert "classes" not in laid_over["data"]["init_args"]

"""Run folders, checkpoints and YAML files written by commit 73aba4d still work, with the same scores.

`golden/run_73aba4d` holds what that commit wrote, with paths relative to it: two interrupted runs
(`runs`), the same runs finished and tested, without checkpoints (`finished`), predicted label maps
(`segmented`) and an exported file (`exported`). `golden/experiments_73aba4d` holds its experiments.
"""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

import segbench
from segbench.__main__ import main
from segbench.commands.sweep.file import read_sweep
from segbench.commands.sweep.space import covering
from segbench.training.arguments import resolve_config

GOLDEN = Path(__file__).parent / "golden"
EXPERIMENTS = GOLDEN / "experiments_73aba4d"
RUNS = [Path("tiny/semantic"), Path("color/color")]
SCORE_TOLERANCE = 2e-3  # a few of 3,840 pixels: other releases of torch round logits differently
LOSS_TOLERANCE = 1e-3

by_run = pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)


@pytest.fixture(autouse=True)
def _copy_of_old_folder(tmp_path, monkeypatch):
    """Change into a copy of the folder in which commit 73aba4d ran."""
    shutil.copytree(GOLDEN / "run_73aba4d", tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")


def read_scores(folder, split):
    scores = json.loads((folder / "run.json").read_text())["scores"][split]
    return {name: scores[name] for name in ("miou", "macc", "aacc")} | scores["iou"]


def read_losses(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return {int(row["step"]): float(row["train/loss"]) for row in csv.DictReader(file)}


@by_run
def test_resume_reaches_the_result_of_an_uninterrupted_run(run):
    folder = Path("runs") / run
    assert json.loads((folder / "run.json").read_text())["finished"] is False
    main(["fit", "--resume", str(folder)])
    assert json.loads((folder / "run.json").read_text())["finished"] is True
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 40
    expected = Path("finished") / run
    assert read_losses(folder) == pytest.approx(read_losses(expected), abs=LOSS_TOLERANCE)
    assert read_scores(folder, "val") == pytest.approx(read_scores(expected, "val"), abs=SCORE_TOLERANCE)
    assert len(list(Path("runs").glob("*/*"))) == len(RUNS)  # no new run folder


@by_run
def test_test_gives_the_stored_scores(run):
    checkpoint = Path("runs") / run / "checkpoints" / "best.ckpt"
    main(["test", "--checkpoint", str(checkpoint), "--runs_dir", "tested", "--run_id", "test"])
    (folder,) = Path("tested").glob("*/test")
    expected = read_scores(Path("finished") / run.parent / "test", "test")
    assert read_scores(folder, "test") == pytest.approx(expected, abs=SCORE_TOLERANCE)


@by_run
def test_validate_gives_the_stored_scores(run):
    main(
        [
            "validate",
            "--checkpoint",
            str(Path("runs") / run / "checkpoints" / "best.ckpt"),
            "--runs_dir",
            "again",
        ]
    )
    (folder,) = Path("again").glob("*/*")
    assert read_scores(folder, "val") == pytest.approx(
        read_scores(Path("runs") / run, "val"), abs=SCORE_TOLERANCE
    )


@by_run
def test_segment_gives_the_stored_label_maps(run):
    checkpoint = Path("runs") / run / "checkpoints" / "best.ckpt"
    main(["segment", "--checkpoint", str(checkpoint), "data/images/test", "--out", "out"])
    for path in sorted((Path("segmented") / run.name).glob("*.png")):
        stored, label_map = np.asarray(Image.open(path)), np.asarray(Image.open(Path("out") / path.name))
        assert len(np.unique(stored)) > 1
        assert (stored != label_map).mean() <= SCORE_TOLERANCE, path.name


@by_run
def test_safetensors_export_has_the_weights_of_the_checkpoint(run):
    checkpoint = Path("runs") / run / "checkpoints" / "best.ckpt"
    main(["export", "--checkpoint", str(checkpoint), "--format", "safetensors", "--out", "model.safetensors"])
    exported, weights = load_file("model.safetensors"), torch.load(checkpoint, weights_only=True)["state_dict"]
    assert exported.keys() == weights.keys()
    assert all(torch.equal(exported[name], weights[name]) for name in weights)


@by_run
def test_checkpoints_load_in_python(run):
    for name in ("best.ckpt", "last.ckpt"):
        assert segbench.load(Path("runs") / run / "checkpoints" / name).class_names == ["ground", "box", "ball"]


def test_exported_file_loads_as_its_checkpoint():
    exported = segbench.load("exported/color.safetensors")
    trained = segbench.load("runs/color/color/checkpoints/best.ckpt")
    image = torch.randint(256, (1, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(exported.segment(image), trained.segment(image))


def test_report_has_a_row_for_each_finished_run():
    main(["report", "finished", "--out", "report"])
    with Path("report/runs.csv").open(newline="") as file:
        rows = {(row["experiment"], bool(row["val mIoU"])): row for row in csv.DictReader(file)}
    assert len(rows) == 4
    for run in RUNS:
        (experiment, _), finished = run.parts, Path("finished")
        val = 100 * read_scores(finished / run, "val")["miou"]
        test = 100 * read_scores(finished / experiment / "test", "test")["miou"]
        assert float(rows[experiment, True]["val mIoU"]) == pytest.approx(val)
        assert float(rows[experiment, False]["test mIoU"]) == pytest.approx(test)


@by_run
def test_stored_configuration_trains_again(run):
    main(["fit", "--config", f"finished/{run}/config.yaml", "--trainer.max_steps", "1", "--runs_dir", "again"])
    assert list(Path("again").glob("*/*/checkpoints/last.ckpt"))


def names(folder):
    return sorted(str(path.relative_to(EXPERIMENTS)) for path in (EXPERIMENTS / folder).glob("*.yaml"))


OVERLAYS = [("linear.yaml", name) for name in names("data")] + [
    ("attention_unet.yaml", name) for name in names("stages")
]


@pytest.mark.parametrize(
    "files",
    [(name,) for name in names(".")] + OVERLAYS,
    ids=lambda files: Path(files[-1]).with_suffix("").as_posix(),
)
def test_experiment_parses(files, capsys):
    configs = [word for name in files for word in ("--config", str(EXPERIMENTS / name))]
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(["fit", *configs, "--print_config"])
    assert not stop.value.code
    resolved = yaml.safe_load(capsys.readouterr().out)
    given = yaml.safe_load((EXPERIMENTS / files[-1]).read_text())
    assert given.keys() <= resolved.keys()
    for part in ("model", "data"):
        if "class_path" in given.get(part, {}):
            assert resolved[part]["class_path"] == given[part]["class_path"]


@pytest.mark.parametrize("name", names("sweeps"))
def test_first_trial_of_sweep_parses(name):
    Path("experiments").symlink_to(EXPERIMENTS)
    sweep = read_sweep(EXPERIMENTS / name)
    point = covering(sweep.parameters)[0]
    args = sweep.command.fill(point, Path("trial.json"))
    if "checkpoint" in point:  # of a run of another sweep
        Path(point["checkpoint"]).parent.mkdir(parents=True)
        shutil.copy("runs/tiny/semantic/checkpoints/best.ckpt", point["checkpoint"])
    assert resolve_config(args)["model"]["class_path"].startswith("segbench.tasks.")


def test_all_stored_files_are_covered():
    assert (len(names(".")), len(names("data")), len(names("stages")), len(names("sweeps"))) == (8, 7, 4, 7)

"""`segbench export --format safetensors|huggingface`, read back by all that reads checkpoints."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from reference.tiny_tasks import write_checkpoint
from safetensors.torch import load_file, save_file

import segbench
from segbench.__main__ import main
from segbench.checkpoints.reading import read_checkpoint

TINY = """\
data:
  class_path: segbench.data.synthetic.SyntheticDataModule
  init_args: {num_classes: 3, image_size: [32, 32], num_images: {train: 2, val: 1, test: 1}, img_size: [32, 32],
              batch_size: 2, num_workers: 0, scale: null}
model:
  init_args: {encoder: {init_args: {pretrained: false, depths: [0]}}, window: [32, 32], stride: [32, 32],
              resize: null}
trainer: {accelerator: cpu, max_steps: 1, val_check_interval: 1, enable_progress_bar: false}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run folder with one checkpoint."""
    from segbench.cli import main as cli

    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiny.yaml").write_text(TINY)
    linear = Path(__file__).parents[3] / "experiments" / "linear.yaml"
    cli(
        [
            "fit",
            "--config",
            str(linear),
            "--config",
            str(folder / "tiny.yaml"),
            "--runs_dir",
            str(folder / "runs"),
        ]
    )
    return next(folder.glob("runs/*/*/checkpoints/best.ckpt"))


def export(checkpoint, kind, out, *more):
    main(["export", "--checkpoint", str(checkpoint), "--format", kind, "--out", str(out), *more])
    return out


def refused(capsys, *args):
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([str(arg) for arg in args])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("segbench: error: ")
    assert error.count("\n") == 1
    return error


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["safetensors", "huggingface"])
def test_all_verbs_take_what_was_exported(tmp_path, monkeypatch, capsys, trained, kind):
    monkeypatch.chdir(tmp_path)
    out = export(trained, kind, Path("model.safetensors" if kind == "safetensors" else "model"))
    image = torch.randint(0, 256, (2, 3, 40, 56), dtype=torch.uint8)
    task = segbench.load(out)
    with torch.no_grad():
        assert torch.equal(task.logits(image), segbench.load(trained).logits(image))
    assert not task.training

    cv2.imwrite("photo.png", np.zeros((40, 56, 3), np.uint8))
    main(["segment", "--checkpoint", str(out), "photo.png", "--out", "labelled"])
    assert Path("labelled/photo.png").is_file()
    for checkpoint, runs in ((out, "one"), (trained, "other")):
        main(["test", "--checkpoint", str(checkpoint), "--runs_dir", runs])
    one, other = (
        json.loads(next(Path(runs).glob("*/*/run.json")).read_text())["scores"]["test"]
        for runs in ("one", "other")
    )
    assert one == other
    export(out, "safetensors", Path("again.safetensors"))  # an export is a checkpoint
    again, first = read_checkpoint("again.safetensors"), read_checkpoint(out)
    assert again.pop("state_dict").keys() == first.pop("state_dict").keys()
    assert again == first
    config = str(trained.parents[1] / "config.yaml")
    assert "--start.checkpoint" in refused(capsys, "fit", "--config", config, "--ckpt_path", out)


def test_the_folder_is_what_the_hub_expects(tmp_path, trained):
    out = export(trained, "huggingface", tmp_path / "my-model", "--license", "apache-2.0")
    assert {file.name for file in out.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    config = json.loads((out / "config.json").read_text())
    assert config["id2label"]["0"] == config["hyper_parameters"]["class_names"][0]
    assert config["num_labels"] == 3

    from huggingface_hub import ModelCard

    card = ModelCard.load(out / "README.md")
    assert card.data.license == "apache-2.0"
    assert card.data.library_name == "segbench"
    assert card.data.datasets == ["synthetic"]
    assert card.data.metrics == ["mean_iou", "accuracy"]
    run = json.loads((trained.parents[1] / "run.json").read_text())
    (result,) = [one for one in card.data.eval_results if one.metric_type == "mean_iou"]
    assert result.metric_value == run["scores"]["val"]["miou"]
    assert f"{100 * run['scores']['val']['miou']:.2f}" in card.text
    assert "1 optimiser steps" in card.text
    assert "segbench.losses.cross_entropy.CrossEntropy" in card.text
    assert str(trained.parents[3]) not in (out / "README.md").read_text() + json.dumps(config)


def test_names_of_classes_may_hold_any_sign(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "odd.ckpt", "linear")
    content = torch.load(checkpoint)
    names = [*["a.b: c+", "_x", "decoder.class_path", ""], *content["hyper_parameters"]["class_names"]]
    names = names[: len(content["hyper_parameters"]["class_names"])]
    content["hyper_parameters"]["class_names"] = names
    torch.save(content, checkpoint)
    out = export(checkpoint, "huggingface", tmp_path / "model")
    assert segbench.load(out).class_names == names


def test_a_card_without_a_run_says_that_nothing_is_known(tmp_path):
    out = export(write_checkpoint(tmp_path / "alone.ckpt", "linear"), "huggingface", tmp_path / "model")
    text = (out / "README.md").read_text()
    header = yaml.safe_load(text.split("---")[1])
    assert header["license"] == "unknown"
    assert "model-index" not in header
    assert header["datasets"] == []
    assert "Not known: no run folder" in text
    assert "Its licence is not known to segbench" in text
    assert "not recorded in the checkpoint" in text


def test_no_paths_of_this_machine_are_published(tmp_path):
    encoder = {
        "pretrained": "/home/me/secret/weights.safetensors",
        "model_name": "vit_tiny_patch16_384",
        "depths": [0],
    }
    checkpoint = write_checkpoint(tmp_path / "model.ckpt", "linear")
    content = torch.load(checkpoint)
    content["hyper_parameters"]["encoder"]["init_args"] = encoder
    config = {
        "experiment": "x",
        "seed_everything": 0,
        "model": {
            "class_path": "segbench.tasks.semantic.SemanticTask",
            "init_args": {"encoder": {"init_args": encoder}},
        },
        "data": {"class_path": "segbench.data.ade20k.ADE20K", "init_args": {"root": "/home/me/secret/ADE"}},
        "trainer": {"precision": None, "default_root_dir": "/home/me/secret"},
    }
    content["segbench"] = {"version": "0", "config": yaml.safe_dump(config), "experiment": "x"}
    torch.save(content, checkpoint)
    out = export(checkpoint, "huggingface", tmp_path / "model")
    for file in out.iterdir():
        assert b"secret" not in file.read_bytes()
    assert "BSD-3-Clause" in (out / "README.md").read_text()


@pytest.fixture
def exported(tmp_path):
    return export(
        write_checkpoint(tmp_path / "model.ckpt", "linear"), "safetensors", tmp_path / "model.safetensors"
    )


def rewrite(path, change=None, metadata=None):
    weights = load_file(path)
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        kept = file.metadata()
    if change is not None:
        change(weights)
    save_file(weights, path, kept if metadata is None else metadata)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), "is damaged, or no safetensors file at all"),
        (lambda path: path.write_bytes(b""), "is damaged, or no safetensors file at all"),
        (
            lambda path: path.write_bytes(b"PK\x03\x04" + bytes(100)),
            "is damaged, or no safetensors file at all",
        ),
        (lambda path: rewrite(path, metadata={"format": "pt"}), "not what model they are of"),
        (lambda path: rewrite(path, metadata={"segbench": "{"}), "not valid JSON"),
        (lambda path: rewrite(path, metadata={"segbench": "[1]"}), "its configuration is not segbench's"),
        (lambda path: rewrite(path, lambda w: w.update(extra=torch.ones(2))), r"1 unknown ['extra']"),
        (
            lambda path: rewrite(path, lambda w: w.pop("decoder.head.bias")),
            r"1 weights missing ['decoder.head.bias']",
        ),
        (
            lambda path: rewrite(path, lambda w: w.update({"decoder.head.bias": torch.ones(150)})),
            "decoder.head.bias is (150,) there and (3,) here",
        ),
    ],
)
def test_damaged_files(tmp_path, capsys, exported, damage, expected):
    damage(exported)
    out = tmp_path / "out.safetensors"
    error = refused(capsys, "export", "--checkpoint", exported, "--format", "safetensors", "--out", out)
    assert expected in error
    assert exported.name in error
    assert not out.exists()


def test_damaged_folders(tmp_path, capsys, exported):
    folder = export(exported, "huggingface", tmp_path / "folder")
    command = [
        "export",
        "--checkpoint",
        folder,
        "--format",
        "safetensors",
        "--out",
        tmp_path / "out.safetensors",
    ]
    (folder / "config.json").write_text("{}")
    assert "hyper_parameters are missing" in refused(capsys, *command)
    (folder / "config.json").unlink()
    assert "config.json and model.safetensors are not both in it" in refused(capsys, *command)
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "old").write_text("precious")
    assert "exists and stays" in refused(
        capsys, "export", "--checkpoint", exported, "--format", "huggingface", "--out", folder
    )
    assert (folder / "old").read_text() == "precious"

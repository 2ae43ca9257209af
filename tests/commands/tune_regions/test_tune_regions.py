"""`segbench tune-regions`, and what it finds in use: test, segment, panels."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import segbench
from segbench.__main__ import main
from segbench.postprocess.regions import Regions

EXPERIMENTS = Path(__file__).parents[3] / "experiments"
REGIONS = "segbench.postprocess.regions.Regions"
TINY = """
data:
  class_path: segbench.data.synthetic.SyntheticDataModule
  init_args: {num_classes: 3, image_size: [40, 48], num_images: {train: 2, val: 5, test: 3}, img_size: [32, 32],
              scale: null, batch_size: 2, eval_batch_size: 2, num_workers: 0}
model:
  init_args:
    encoder: {init_args: {base_features: 8}}
    window: null
    stride: null
    resize: null
trainer: {accelerator: cpu, max_steps: 3, val_check_interval: 3, accumulate_grad_batches: 1,
          enable_progress_bar: false, enable_model_summary: false, num_sanity_val_steps: 0}
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiny.yaml").write_text(TINY)
    configs = ["--config", str(EXPERIMENTS / "attention_unet.yaml"), "--config", str(folder / "tiny.yaml")]
    main(["fit", *configs, "--runs_dir", str(folder / "runs"), "--model.init_args.postprocess", REGIONS])
    return next(folder.glob("runs/*/*/checkpoints/last.ckpt"))


def test_a_checkpoint_carries_its_post_processor(checkpoint):
    task = segbench.load(checkpoint)
    assert isinstance(task.postprocess, Regions)
    picture = cv2.imread(str(next(checkpoint.parents[1].glob("panels/*.png"))))
    # image, label, before, boundary, regions, prediction, errors, entropy
    assert picture.shape[1] == 8 * 48 + 7 * 4


def test_trials_are_scored_on_validation_and_written_as_an_overlay(checkpoint, tmp_path, capsys):
    out = tmp_path / "tuned"
    command = ["tune-regions", "--checkpoint", str(checkpoint), "--trials", "4", "--workers", "2"]
    main([*command, "--out", str(out)])
    printed = capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {"regions.yaml", "tuning.md", "tuning.json"}
    overlay = (out / "regions.yaml").read_text()
    assert overlay in printed
    assert overlay in (out / "tuning.md").read_text()
    assert "5 validation images, 4 trials" in printed
    assert "95 % interval" in printed

    content = json.loads((out / "tuning.json").read_text())
    assert len(content["trials"]) == 4
    best = content["trials"][content["best"]]
    assert best["miou"] == max(trial["miou"] for trial in content["trials"])
    chosen = yaml.safe_load(overlay)["model"]["init_args"]["postprocess"]
    assert chosen == {"class_path": REGIONS, "init_args": best["parameters"]}

    # The very scores of `segbench validate`, with the overlay and without any post-processor.
    for more, expected in (
        (["--config", str(out / "regions.yaml")], best["miou"]),
        (["--model.init_args.postprocess", "null"], content["raw"]),
    ):
        runs = tmp_path / f"runs-{len(more)}-{more[0].strip('-')}"
        main(["validate", "--checkpoint", str(checkpoint), *more, "--runs_dir", str(runs)])
        card = json.loads(next(runs.glob("*/*/run.json")).read_text())
        assert card["scores"]["val"]["miou"] == pytest.approx(expected, abs=1e-6)


def test_fewer_images_and_other_data_may_be_given(checkpoint, capsys):
    command = ["tune-regions", "--checkpoint", str(checkpoint), "--trials", "2", "--images", "3"]
    main([*command, "--data.init_args.num_images", "{train: 2, val: 4, test: 3}"])
    assert "3 validation images, 2 trials" in capsys.readouterr().out


def test_segment_takes_a_post_processor(checkpoint, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "one.png"), image[..., ::-1])
    command = ["segment", "--checkpoint", str(checkpoint), str(tmp_path / "one.png"), "--out"]
    main([*command, str(tmp_path / "own")])
    options = ["--postprocess", REGIONS, "--postprocess.threshold", "0.9", "--postprocess.min_size", "300"]
    main([*command, str(tmp_path / "other"), *options])
    batch, task = torch.from_numpy(image).permute(2, 0, 1)[None], segbench.load(checkpoint)
    for folder, processor in (("own", Regions()), ("other", Regions(threshold=0.9, min_size=300))):
        task.postprocess = processor
        written = np.array(Image.open(tmp_path / folder / "one.png"))  # a palette, which OpenCV expands
        assert np.array_equal(written, task.segment(batch)[0].numpy())


def test_any_decoder_takes_regions_at_test_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(
        TINY.replace("{base_features: 8}", "{pretrained: false, depths: [0]}").replace("val: 5", "val: 2")
    )
    main(["fit", "--config", str(EXPERIMENTS / "linear.yaml"), "--config", "tiny.yaml"])
    (checkpoint,) = Path("runs").glob("*/*/checkpoints/last.ckpt")
    assert segbench.load(checkpoint).postprocess is None
    options = ["--model.init_args.postprocess", REGIONS, "--model.init_args.postprocess.min_size", "30"]
    main(["test", "--checkpoint", str(checkpoint), *options, "--runs_dir", "tests"])
    assert "test" in json.loads(next(Path("tests").glob("*/*/run.json")).read_text())["scores"]
    panel = cv2.imread(str(next(Path("tests").glob("*/*/panels/*.png"))))
    assert panel.shape[1] == 8 * 48 + 7 * 4


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--trials", "0"], "trials is 0; give 1 to 27000"),
        (["--images", "1"], "images=1 must be at least 2"),
        (["--workers", "0"], "workers=0 at least 1"),
        (
            ["--data.init_args.num_images", "{train: 2, val: 1, test: 3}"],
            "needs 2 validation images or more, not 1",
        ),
        (["--data.init_args.num_classes", "4"], "was trained with other classes than the data have"),
        (["--device", "mps"], "mps is not available"),
        (["--out", "there"], "stays as it is"),
        (["--out", "there/tuning.md"], "File exists: there/tuning.md"),
        (["--checkpoint", "nowhere.ckpt"], "checkpoint not found: nowhere.ckpt"),
    ],
)
def test_mistakes(checkpoint, tmp_path, monkeypatch, capsys, more, expected):
    monkeypatch.chdir(tmp_path)
    Path("there").mkdir()
    Path("there", "tuning.md").touch()
    with pytest.raises(SystemExit) as stop:
        main(["tune-regions", "--checkpoint", str(checkpoint), *more])
    assert stop.value.code == 2
    assert expected in capsys.readouterr().err


def test_data_without_a_validation_split_are_refused_and_test_is_left_alone(checkpoint, tmp_path, capsys):
    for split in ("train", "test"):
        for kind in ("images", "masks"):
            folder = tmp_path / kind / split
            folder.mkdir(parents=True)
            picture = np.zeros((16, 16, 3) if kind == "images" else (16, 16), np.uint8)
            for name in ("a", "b"):
                cv2.imwrite(str(folder / f"{split}{name}.png"), picture)
    (tmp_path / "classes.txt").write_text("background\none\ntwo\n")
    data = ["--data", "segbench.data.folder.FolderDataModule"]
    with pytest.raises(SystemExit):
        main(["tune-regions", "--checkpoint", str(checkpoint), *data, "--data.init_args.root", str(tmp_path)])
    assert "tune-regions needs a validation split, and never takes test" in capsys.readouterr().err


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit):
        main(["tune-regions", "--help"])
    text = capsys.readouterr().out
    for option in (
        "--checkpoint",
        "--data",
        "--out",
        "--trials",
        "--images",
        "--seed",
        "--workers",
        "--device",
    ):
        assert option in text

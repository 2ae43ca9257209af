"""What `segbench segment` writes, compared with what the model says."""

import csv

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from reference.tiny_tasks import write_checkpoint

import segbench
from segbench.__main__ import main
from segbench.commands.segment.writing import write_labels
from segbench.postprocess.regions import Regions


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("model") / "boundary.ckpt", "attention_unet")


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "in").mkdir()
    random = np.random.default_rng(3)
    for name, size in {"a": (40, 56), "b": (72, 40), "c": (40, 56), "d": (40, 56)}.items():
        noise = random.integers(0, 256, (*size, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / "in" / f"{name}.png"), cv2.GaussianBlur(noise, (0, 0), 4))
    return tmp_path / "in"


def tensor(path):
    return torch.from_numpy(cv2.imread(str(path))[..., ::-1].copy()).permute(2, 0, 1)[None]


def run(checkpoint, *args):
    main(["segment", "--checkpoint", str(checkpoint), *map(str, args)])


def labels(path):
    with Image.open(path) as image:
        return np.asarray(image)


def test_label_pngs_are_classes_in_the_colours_of_the_palette(tmp_path, checkpoint, photos):
    run(checkpoint, photos, "--out", tmp_path / "out", "--batch_size", 2)
    task = segbench.load(checkpoint)
    for path in sorted(photos.iterdir()):
        expected = task.segment(tensor(path))[0].numpy()
        with Image.open(tmp_path / "out" / path.name) as image:
            assert image.mode == "P"
            assert np.array_equal(np.asarray(image), expected)
            assert np.array_equal(np.asarray(image.convert("RGB")), np.array(task.palette)[expected])
        colors = np.array(task.palette, float)[expected]
        overlay = labels(tmp_path / "out" / f"{path.stem}_overlay.png")
        photograph = cv2.imread(str(path))[..., ::-1]
        assert np.abs(overlay - (photograph / 2 + colors / 2)).max() <= 1


def test_areas_of_each_class_in_each_photograph(tmp_path, checkpoint, photos):
    run(checkpoint, photos, "--out", tmp_path / "out")
    with (tmp_path / "out" / "areas.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["image"], row["class"], row["name"]) for row in rows] == [
        (image, str(index), name) for image in "abcd" for index, name in enumerate(("sky", "ground", "tree"))
    ]
    for row in rows:
        is_class = labels(tmp_path / "out" / f"{row['image']}.png") == int(row["class"])
        assert int(row["pixels"]) == is_class.sum()
        assert float(row["share"]) == pytest.approx(is_class.mean(), abs=1e-6)
        assert row["file"] == str(photos / f"{row['image']}.png")


def test_probabilities_and_boundary(tmp_path, checkpoint, photos):
    run(checkpoint, photos, "--out", tmp_path / "out", "--probabilities", "--boundary")
    run(checkpoint, photos, "--out", tmp_path / "plain")
    task = segbench.load(checkpoint)
    for path in sorted(photos.iterdir()):
        (found,) = task.predict_proba(tensor(path))
        with np.load(tmp_path / "out" / f"{path.stem}_probabilities.npz") as file:
            assert file["class_names"].tolist() == ["sky", "ground", "tree"]
            probabilities = file["probabilities"]
        assert probabilities.dtype == np.float16
        assert np.abs(probabilities - found.probabilities.numpy()).max() < 1e-3
        boundary = labels(tmp_path / "out" / f"{path.stem}_boundary.png")
        assert np.abs(boundary / 255 - found.boundary.numpy()).max() < 0.51 / 255 + 1e-6
        assert (labels(tmp_path / "out" / path.name) != labels(tmp_path / "plain" / path.name)).mean() < 0.001


def test_windows_views_and_postprocessor_are_those_asked_for(tmp_path, checkpoint, photos):
    views = ["--window", "32", "--stride", "[16, 24]", "--scales", "[1, 1.5]", "--flip"]
    run(checkpoint, photos / "a.png", "--out", tmp_path / "views", *views)
    kind = ["--postprocess", "segbench.postprocess.regions.Regions"]
    kind += ["--postprocess.threshold", "0.5", "--postprocess.expand", "0", "--postprocess.promote", "0.99"]
    run(checkpoint, photos / "a.png", "--out", tmp_path / "regions", *kind)

    task, image = segbench.load(checkpoint), tensor(photos / "a.png")
    plain = task.segment(image)[0].numpy()
    task.postprocess = Regions(threshold=0.5, expand=0, promote=0.99)
    regions = task.segment(image)[0].numpy()
    task.postprocess = None
    task.views = task.views._replace(scales=[1.0, 1.5], flip=True)
    seen = task.segment(image, window=(32, 32), stride=(16, 24))[0].numpy()
    assert np.array_equal(labels(tmp_path / "views" / "a.png"), seen)
    assert np.array_equal(labels(tmp_path / "regions" / "a.png"), regions)
    assert not np.array_equal(plain, seen)
    assert not np.array_equal(plain, regions)


def test_more_than_256_classes_take_16_bits(tmp_path):
    expected = np.arange(300).reshape(15, 20)
    write_labels(tmp_path / "many.png", expected, [[0, 0, 0]] * 300)
    written = cv2.imread(str(tmp_path / "many.png"), cv2.IMREAD_UNCHANGED)
    assert written.dtype == np.uint16
    assert np.array_equal(written, expected)


def test_a_model_that_takes_no_such_window_is_told_before_anything_is_labelled(tmp_path, photos, capsys):
    model = write_checkpoint(tmp_path / "fixed.ckpt", "original_patch_unet")
    with pytest.raises(SystemExit) as stop:
        run(model, photos, "--out", tmp_path / "out", "--window", "48")
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("segbench: ") == 1
    assert not list((tmp_path / "out").glob("*.png"))
    run(model, photos, "--out", tmp_path / "out")  # nothing in there is worth protecting
    assert len(list((tmp_path / "out").glob("*_overlay.png"))) == 4

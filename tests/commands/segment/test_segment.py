"""`segbench segment` on photographs of all kinds."""

from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

import segbench
from segbench.__main__ import main


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    from segbench.cli import main as cli

    folder = tmp_path_factory.mktemp("trained")
    experiments = Path(__file__).parents[3] / "experiments"
    overlay = folder / "tiny.yaml"
    overlay.write_text(
        "data: {class_path: segbench.data.synthetic.SyntheticDataModule, init_args: {num_classes: 3, "
        "image_size: [32, 32], num_images: {train: 2, val: 1, test: 1}, img_size: [32, 32], batch_size: 2, "
        "num_workers: 0, scale: null}}\n"
        "model: {init_args: {encoder: {init_args: {pretrained: false, depths: [0]}}, window: [32, 32], "
        "stride: [32, 32], resize: null}}\n"
        "trainer: {accelerator: cpu, max_steps: 1, val_check_interval: 1, enable_progress_bar: false}\n"
    )
    configs = ["--config", str(experiments / "linear.yaml"), "--config", str(overlay)]
    cli(["fit", *configs, "--runs_dir", str(folder / "runs")])
    return next(folder.glob("runs/*/*/checkpoints/best.ckpt"))


def photograph(path, height=40, width=56):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(len(str(path))).integers(0, 256, (height, width, 3), dtype=np.uint8)
    path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())
    return path


def read(path):
    with Image.open(path) as image:
        return np.asarray(image)


def test_labels_colours_and_overlay(tmp_path, checkpoint, capsys):
    one = photograph(tmp_path / "in" / "one.jpg")
    photograph(tmp_path / "in" / "deep" / "two.PNG", 33, 70)
    photograph(tmp_path / "in" / "deep" / "one.jpg")  # of the same name
    (tmp_path / "in" / "notes.txt").write_text("no photograph")
    main(["segment", "--checkpoint", str(checkpoint), str(tmp_path / "in"), "--out", str(tmp_path / "out")])
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        f"{name}{kind}.png" for name in ("one", "one-2", "two") for kind in ("", "_color", "_overlay")
    } | {"areas.csv", "segment.jsonl"}
    assert "3 of 3" in capsys.readouterr().out

    task = segbench.load(checkpoint)
    assert read(tmp_path / "out" / "two.png").shape == (33, 70)
    first = read(tmp_path / "out" / "one-2.png")
    image = cv2.imread(str(one))[..., ::-1].copy()
    expected = task.segment(torch.from_numpy(image).permute(2, 0, 1)[None])[0].numpy()
    assert np.array_equal(first, expected)
    colors = cv2.imread(str(tmp_path / "out" / "one-2_color.png"))[..., ::-1]
    assert np.array_equal(colors, np.array(task.palette)[expected])


def test_nothing_is_written_over(tmp_path, checkpoint, capsys):
    photos = [photograph(tmp_path / "in" / name) for name in ("x.png", "y.png", "y_color.png")]
    before = [path.read_bytes() for path in photos]
    command = ["segment", "--checkpoint", str(checkpoint), str(tmp_path / "in"), "--out"]
    with pytest.raises(SystemExit):
        main([*command, str(tmp_path / "in")])
    assert "is a photograph and would be written over" in capsys.readouterr().err
    for _ in range(2):  # the second time, what the first wrote is not a photograph
        main([*command, str(tmp_path / "in" / "labelled")])
        assert "3 of 3" in capsys.readouterr().out
    assert (
        len(list((tmp_path / "in" / "labelled").glob("*.png"))) == 9
    )  # y's colours and y_color's labels differ
    assert [path.read_bytes() for path in photos] == before


def test_an_unreadable_image_is_reported_and_the_rest_is_labelled(tmp_path, checkpoint, capsys):
    photograph(tmp_path / "good.png")
    (tmp_path / "bad.jpg").write_bytes(b"this is not a JPEG")
    with pytest.raises(SystemExit) as stop:
        main(["segment", "--checkpoint", str(checkpoint), str(tmp_path), "--out", str(tmp_path / "out")])
    assert stop.value.code == 1
    captured = capsys.readouterr()
    assert "bad.jpg" in captured.err
    assert "1 of 2" in captured.out
    assert (tmp_path / "out" / "good.png").is_file()


def test_each_file_is_labelled_or_named(tmp_path, checkpoint, capsys):
    image = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    for name, kind in (("a.jfif", "JPEG"), ("b.gif", "GIF"), ("c.ppm", "PPM"), ("d.jp2", "JPEG2000")):
        Image.fromarray(image).save(tmp_path / name, kind)
    tifffile.imwrite(tmp_path / "e.tif", image, photometric="minisblack", planarconfig="contig")
    tifffile.imwrite(tmp_path / "f.tif", image.astype(np.int32), photometric="rgb")
    Image.fromarray(image[..., 0].astype(np.uint16) * 16).save(tmp_path / "g.png")
    Image.fromarray(image[..., 0].astype(np.uint16) * 16).save(tmp_path / "h.png")
    (tmp_path / "i.nef").write_bytes(b"raw")
    data = (tmp_path / "g.png").read_bytes()
    (tmp_path / "j.png").write_bytes(data[:200] + bytes([data[200] ^ 1]) + data[201:])
    with pytest.raises(SystemExit), pytest.warns(UserWarning, match=r"[gh]\.png has 16-bit values of at most"):
        main(["segment", "--checkpoint", str(checkpoint), str(tmp_path), "--out", str(tmp_path / "out")])
    captured = capsys.readouterr()
    assert "7 of 9" in captured.out
    assert "1 .nef of types that are not read: i.nef" in captured.err
    assert "f.tif holds int32 values" in captured.err
    assert "j.png is damaged or cut short, or not an image (wrong checksum of 'IDAT'" in captured.err


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["nothing.jpg"], "image not found: nothing.jpg"),
        (["."], "no photographs"),
        (["one.png", "--window", "[32, 32]", "--stride", "[64, 64]"], "stride"),
        (["one.png", "--stride", "64"], "stride"),
        (["one.png", "--window", "0"], "window must be one or two positive numbers"),
        (["one.png", "--scales", "[1, -1]"], "scales must be one or more positive factors"),
        (["one.png", "--batch_size", "0"], "batch_size must be at least 1"),
        (["one.png", "--opacity", "2"], "opacity"),
        (["one.png", "--device", "abacus"], "abacus"),
        (["one.png", "--device", "mps"], "mps is not available; choose cpu"),
    ],
)
def test_mistakes(tmp_path, monkeypatch, capsys, checkpoint, more, expected):
    monkeypatch.chdir(tmp_path)
    if "one.png" in more:
        photograph(tmp_path / "one.png")
    with pytest.raises(SystemExit) as stop:
        main(["segment", "--checkpoint", str(checkpoint), *more, "--out", "out"])
    assert stop.value.code == 2
    assert expected in capsys.readouterr().err


def test_no_checkpoint_at_all(tmp_path, capsys):
    photo = photograph(tmp_path / "one.png")
    with pytest.raises(SystemExit):
        main(["segment", "--checkpoint", str(photo), str(photo), "--out", str(tmp_path / "out")])
    assert "no checkpoint at all" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit):
        main(["segment", "--help"])
    text = capsys.readouterr().out
    options = "checkpoint out window stride scales flip postprocess batch_size probabilities boundary frames"
    for option in [*options.split(), "opacity", "overwrite", "device", "trust"]:
        assert f"--{option}" in text


def test_models_built_in_python_say_why_they_cannot_be_loaded(tmp_path):
    torch.save({"state_dict": {}, "hyper_parameters": {"num_classes": 3}}, tmp_path / "python.ckpt")
    with pytest.raises(ValueError, match="does not say how its model was built"):
        segbench.load(tmp_path / "python.ckpt")
    torch.save({"state_dict": {}, "hyper_parameters": {"encoder": partial}}, tmp_path / "objects.ckpt")
    with pytest.raises(ValueError, match="without running code"):
        segbench.load(tmp_path / "objects.ckpt")

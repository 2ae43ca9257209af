"""`segbench export --format onnx|pt2`: what the file computes is what the model computes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from reference.tiny_tasks import CORNERS, MODELS, pictures, train, write_checkpoint

import segbench
from segbench.__main__ import main
from segbench.commands.export import graph, onnx_file, write
from segbench.commands.export import parity as agreement
from segbench.commands.export.pt2_file import write_pt2

SIZES = [(1, 64, 64), (2, 96, 128), (3, 160, 96)]  # multiples of 32, as deep pyramids take them


def run_file(path, image):
    if path.suffix == ".onnx":
        import onnxruntime

        return [
            torch.from_numpy(one)
            for one in onnxruntime.InferenceSession(path).run(None, {"image": image.numpy()})
        ]
    return list(torch.export.load(path).module()(image))


def noise(batch, height, width, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, 3, height, width), generator=generator, dtype=torch.uint8)


def check(path, checkpoint, sizes, photograph=False, draw=noise):
    task = segbench.load(checkpoint)
    for batch, height, width in sizes:
        image = draw(batch, height, width, seed=height)
        with torch.no_grad():
            if photograph:
                (labels,) = run_file(path, image)
                logits = task.logits(image)
                chosen = logits.gather(1, labels.long()[:, None])[:, 0]
                assert labels.dtype == torch.uint8
                assert (logits.amax(1) - chosen).max() <= 1e-4
                assert (labels == task.segment(image)).float().mean() > 0.999
            else:
                prediction, _ = task(image)
                expected = [value for value in prediction if value is not None]
                found = run_file(path, task.encoder.normalize(image).float())
                assert len(found) == len(expected)
                for one, other in zip(found, expected, strict=True):
                    torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


def export(checkpoint, out, *more):
    main(["export", "--checkpoint", str(checkpoint), "--format", out.suffix[1:], "--out", str(out), *more])


# Attention U-Nets end in a norm over the classes. Where all scores of a pixel are nearly the same, it makes a
# hundred times as much of their rounding errors: with random weights their own float32 is 1e-4 to 3e-3 from
# float64. Training drives the scores apart, but with three classes a picture keeps points where all are equal
# (two differences vanish somewhere in a plane); with eight it has none, and 1e-5 to 3e-5 are left.
TRAINED = {"attention_unet", "local_attention_unet", "attention_unet_vit"}


@pytest.fixture(scope="module")
def checkpoint_of(tmp_path_factory):
    made = {}

    def make(name):
        if name not in made:
            path = tmp_path_factory.mktemp("models") / f"{name}.ckpt"
            made[name] = write_checkpoint(path, name, **(CORNERS if name in TRAINED else {}))
            train(path, steps=60 if name in TRAINED else 0)
        return made[name]

    return make


@pytest.mark.parametrize(
    ("kind", "photograph"),
    [
        pytest.param("onnx", True, marks=pytest.mark.slow),
        pytest.param("pt2", False, marks=pytest.mark.slow),
        pytest.param("onnx", False, marks=pytest.mark.nightly),
        pytest.param("pt2", True, marks=pytest.mark.nightly),
    ],
)
@pytest.mark.parametrize("name", MODELS)
def test_every_decoder_at_three_sizes(tmp_path, capsys, checkpoint_of, name, kind, photograph):
    checkpoint = checkpoint_of(name)
    out = tmp_path / f"model.{kind}"
    fixed = ["--image_size", "[320, 256]"] if name == "local_attention_unet" else []
    export(checkpoint, out, "--photograph", str(photograph).lower(), *fixed)
    sizes = [(1, 320, 256), (2, 320, 256)] if fixed else SIZES
    printed = capsys.readouterr().out
    if name in {"raw_patch_unet", "original_patch_unet"}:  # their own rule: images of one size
        assert "batch is free, images are 64×64" in printed
        sizes = [(1, 64, 64), (3, 64, 64)]
    elif name != "local_attention_unet":
        assert "batch and image size are free" in printed
        if photograph:
            sizes = [*SIZES, (2, 75, 111)]
    check(out, checkpoint, sizes, photograph, draw=of_training if name in TRAINED else noise)


@torch.no_grad()
def test_a_graph_in_memory_takes_few_tokens_and_many(tmp_path):
    """Which kernel attention takes is decided by the number of tokens; a graph must not be held to one side."""
    task = segbench.load(write_checkpoint(tmp_path / "model.ckpt", "linear"))
    program = graph.trace(task, graph.Form(False, (16, 16), (64, 64), "size")).module()
    for side in (64, 400):  # 17 tokens and 626
        image = noise(2, side, side, seed=0)
        found, *_ = program(task.encoder.normalize(image).float())
        torch.testing.assert_close(found, task(image)[0].logits, rtol=0, atol=1e-4)


def of_training(batch, height, width, seed):
    return pictures(batch, height, width, seed)[0]


def test_samples_are_pictures_such_as_cameras_take(tmp_path):
    """Neighbours are alike: noise would make trained attention U-Nets differ from their own float64 by 2e-4."""
    images = agreement.samples(graph.Form(False, (16, 16), (64, 96), "size"))
    assert [tuple(image.shape) for image in images] == [(1, 3, 64, 96), (2, 3, 80, 141), (3, 3, 69, 96)]
    for image in images:
        change = (image[..., 1:].float() - image[..., :-1].float()).abs().mean()
        assert image.dtype == torch.uint8
        assert 2 < change < 20  # of noise it is 85
        assert image.float().std() > 40


@pytest.mark.slow
def test_onnx_speaks_for_itself(tmp_path, capsys):
    checkpoint = write_checkpoint(tmp_path / "model.ckpt", "linear", window=[64, 64], stride=[48, 48])
    export(checkpoint, tmp_path / "model.onnx")
    printed = capsys.readouterr().out
    assert "opset 18" in printed
    assert "batch and image size are free, in multiples of 16×16 pixels" in printed
    assert printed.count("of the model") == 3
    check(tmp_path / "model.onnx", checkpoint, SIZES)

    import onnxruntime

    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    said = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    assert said["class_names"] == ["sky", "ground", "tree"]
    assert said["palette"][1] == [128, 64, 128]
    assert (said["window"], said["stride"], said["opset"]) == ([64, 64], [48, 48], 18)
    (given,) = session.get_inputs()
    assert (given.name, given.shape) == ("image", ["batch", 3, "height", "width"])
    # By what it says, the file is used without segbench.
    photograph = np.random.default_rng(0).integers(0, 256, (3, 64, 80))
    mean, std = (np.array(said[key])[:, None, None] for key in ("pixel_mean", "pixel_std"))
    (logits,) = session.run(None, {"image": ((photograph - mean) / std)[None].astype(np.float32)})
    with torch.no_grad():
        expected, _ = segbench.load(checkpoint)(torch.from_numpy(photograph)[None].to(torch.uint8))
    np.testing.assert_allclose(logits, expected.logits.numpy(), atol=1e-4)


def test_pt2_takes_photographs_of_a_size_that_was_asked_for(tmp_path, capsys):
    checkpoint = write_checkpoint(tmp_path / "model.ckpt", "linear")
    export(checkpoint, tmp_path / "model.pt2", "--photograph", "true", "--image_size", "[43, 70]")
    printed = capsys.readouterr().out
    assert "batch is free, images are 43×70" in printed
    assert "labels are the model's" in printed
    check(tmp_path / "model.pt2", checkpoint, [(1, 43, 70), (3, 43, 70)], photograph=True)
    extra = {"segbench.json": ""}
    torch.export.load(tmp_path / "model.pt2", extra_files=extra)
    said = json.loads(extra["segbench.json"])
    assert (said["class_names"], said["image_size"]) == (["sky", "ground", "tree"], [43, 70])


@pytest.fixture
def quick(monkeypatch):
    """An exporter that writes at once, and a file that answers as `answers` say."""
    answers = {"bias": 0.0}

    def run_pt2(path):
        assert path.read_text() == "graph"
        return lambda image: [task_of["task"].logits_of(image) + answers["bias"]]

    task_of = {}

    class Fake:
        def __init__(self, task):
            self.task = task

        def logits_of(self, image):
            with torch.no_grad(), graph._normalized_already(self.task.encoder):
                return self.task(image)[0].logits

    monkeypatch.setattr(write, "trace", lambda task, form: task_of.update(task=Fake(task)))
    monkeypatch.setattr(write, "write_pt2", lambda path, program, facts: path.write_text("graph"))
    monkeypatch.setattr(write, "run_pt2", run_pt2)
    return answers


def test_a_file_that_disagrees_is_not_kept(tmp_path, capsys, quick):
    checkpoint = write_checkpoint(tmp_path / "model.ckpt", "linear")
    export(checkpoint, tmp_path / "good.pt2")
    quick["bias"] = 0.01
    with pytest.raises(SystemExit) as stop:
        export(checkpoint, tmp_path / "bad.pt2")
    assert stop.value.code == 2
    assert "the file differs from the model by 1.0e-02, more than 0.0001" in capsys.readouterr().err
    quick["bias"] = float("nan")
    with pytest.raises(SystemExit):
        export(checkpoint, tmp_path / "bad.pt2")
    assert {path.name for path in tmp_path.iterdir()} == {"model.ckpt", "good.pt2"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no file that is always full")
def test_a_full_disk_does_not_end_the_process():
    """torch's own writer of archives throws where nothing can catch it."""
    program = torch.export.export(torch.nn.Linear(300, 300), (torch.zeros(1, 300),))
    with pytest.raises(OSError, match="No space left"):
        write_pt2(Path("/dev/full"), program, {})


def test_what_stands_there_is_not_written_over(tmp_path, capsys):
    (tmp_path / "old.onnx").write_text("precious")
    with pytest.raises(SystemExit):
        export(tmp_path / "model.ckpt", tmp_path / "old.onnx")
    assert "exists and stays as it is" in capsys.readouterr().err
    assert (tmp_path / "old.onnx").read_text() == "precious"


def test_missing_packages_are_named_with_the_remedy(tmp_path, capsys, monkeypatch):
    checkpoint = write_checkpoint(tmp_path / "model.ckpt", "linear")
    monkeypatch.setattr(onnx_file, "find_spec", lambda name: None if name == "onnxruntime" else 1)
    with pytest.raises(SystemExit):
        export(checkpoint, tmp_path / "model.onnx")
    assert "ONNX needs onnxruntime: pip install 'segbench[onnx]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("out", "more", "expected"),
    [
        ("model.txt", ["--format", "onnx"], "should end in .onnx"),
        ("a.pt2", ["--format", "pt2", "--opset", "20"], "it is for --format onnx"),
        ("a.onnx", ["--format", "onnx", "--opset", "9"], "at least 18"),
        ("a.safetensors", ["--format", "safetensors", "--photograph", "true"], "holds weights alone"),
        ("a.tflite", ["--format", "tflite"], "tflite"),
        ("a.pt2", ["--format", "pt2", "--image_size", "[0, 64]"], "image_size must be positive"),
    ],
)
def test_mistakes(tmp_path, capsys, out, more, expected):
    checkpoint = write_checkpoint(tmp_path / "model.ckpt", "linear")
    with pytest.raises(SystemExit) as stop:
        main(["export", "--checkpoint", str(checkpoint), "--out", str(tmp_path / out), *more])
    assert stop.value.code == 2
    captured = capsys.readouterr().err
    assert expected in captured
    assert captured.count("\n") == 1
    assert not (tmp_path / out).exists()


def test_labels_are_judged_by_the_models_own_logits(tmp_path):
    task = segbench.load(write_checkpoint(tmp_path / "model.ckpt", "linear"))
    form = graph.Form(True, (16, 16), (64, 64), "size")
    found = agreement.compare(task, form, lambda image: [task.segment(image)], 1e-4)
    assert [one.equal for one in found] == [1.0] * 3
    with pytest.raises(agreement.Disagreement):
        agreement.compare(task, form, lambda image: [(task.segment(image) + 1) % 3], 1e-4)

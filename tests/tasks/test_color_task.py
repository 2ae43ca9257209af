"""Painting instead of classifying: nearest colours, learning, and the whole command line."""

import json
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from PIL import Image
from tiny import overlay

import segbench
from segbench.__main__ import main
from segbench.decoders.linear import LinearDecoder
from segbench.decoders.patch_unet import PatchUNet
from segbench.encoders.patch_vit import PatchViT
from segbench.encoders.timm_vit import TimmViT
from segbench.losses.color import MeanAbsoluteColor
from segbench.losses.cross_entropy import CrossEntropy
from segbench.metrics.segmentation import SegmentationScores
from segbench.tasks.color import ColorTask, color_logits, hard_sigmoid
from segbench.tasks.semantic import SemanticTask
from segbench.types import Batch

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
PALETTE = [[128, 64, 128], [250, 40, 0], [0, 200, 30], [40, 60, 240]]
VIT = partial(TimmViT, depths=[0])
TINY = partial(
    PatchViT,
    depth=1,
    key_dim=16,
    hidden=(64,),
    bottleneck=(64,),
    attention_dropout=0.0,
    mlp_dropout=0.0,
    bottleneck_dropout=0.0,
)


def make(task=ColorTask, encoder=VIT, decoder=LinearDecoder, palette=PALETTE, **options):
    names = [f"class {index}" for index in range(len(palette))]
    return task(encoder, decoder, (32, 32), len(palette), names, palette, **options)


def nearest(colors, palette):
    """`(3, H, W)` → `(H, W)`, by comparing every pixel with every colour."""
    palette = np.asarray(palette).astype(np.float64) / 255
    distances = ((colors.double().numpy()[None] - palette[:, :, None, None]) ** 2).sum(1)
    return distances.argmin(0)


@pytest.mark.parametrize("num_classes", [2, 19, 150])
def test_argmax_of_the_logits_is_the_nearest_colour(num_classes):
    palette = torch.randint(0, 256, (num_classes, 3))
    colors = torch.rand(2, 3, 9, 7)
    labels = color_logits(colors, palette / 255).argmax(1)
    assert np.array_equal(labels[0].numpy(), nearest(colors[0], palette.numpy()))
    true = palette[torch.arange(num_classes)].T.reshape(1, 3, 1, -1) / 255
    _, first = np.unique(palette.numpy(), axis=0, return_index=True)  # of equal colours the first is found
    assert torch.equal(color_logits(true, palette / 255).argmax(1)[0, 0, first], torch.from_numpy(first))


def test_hard_sigmoid_is_that_of_keras_2():
    x = torch.tensor([-9.0, -2.5, -1.0, 0.0, 1.0, 2.5, 9.0])
    torch.testing.assert_close(hard_sigmoid(x), torch.tensor([0.0, 0.0, 0.3, 0.5, 0.7, 1.0, 1.0]))


@torch.no_grad()
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_model_paints_and_labels_by_the_nearest_colour(precision):
    task = make().eval()
    image = torch.randint(0, 256, (2, 3, 40, 53), dtype=torch.uint8)
    with torch.autocast("cpu", dtype=precision, enabled=precision != torch.float32):
        prediction, size = task(image)
        labels = task.segment(image)
    assert prediction.logits.shape[1] == 4
    assert task.decoder.decoder.head.weight.shape[0] == 3
    assert prediction.colors.dtype == torch.float32
    painted = F.interpolate(prediction.colors, size, mode="bilinear")[..., :40, :53]
    expected = np.stack([nearest(one, PALETTE) for one in painted])
    assert (labels.numpy() == expected).mean() > 0.999  # a pixel between two colours may go either way


@torch.no_grad()
def test_averaging_windows_is_averaging_their_colours():
    task = make().eval()
    image = torch.randint(0, 256, (1, 3, 32, 48), dtype=torch.uint8)
    colors = torch.zeros(3, 32, 48)
    for left in (0, 16):
        painted = task(image[..., left : left + 32])[0].colors
        colors[..., left : left + 32] += F.interpolate(painted, (32, 32), mode="bilinear")[0]
    colors[..., 16:32] /= 2
    labels = task.segment(image, window=(32, 32), stride=(32, 16))
    assert (labels[0].numpy() == nearest(colors, PALETTE)).mean() > 0.999


def test_losses_get_the_palette_and_may_be_of_classes():
    (loss,) = make().losses
    assert isinstance(loss, MeanAbsoluteColor)
    torch.testing.assert_close(loss.palette, torch.tensor(PALETTE) / 255)
    task = make(losses=[partial(MeanAbsoluteColor, weight=2.0), CrossEntropy])
    task.log = lambda *args, **kwargs: None
    image = torch.randint(0, 256, (2, 3, 40, 53), dtype=torch.uint8)
    label = torch.randint(0, 4, (2, 40, 53), dtype=torch.uint8)
    total = task.training_step(Batch(image, label, ("a", "b")), 0)["loss"]
    prediction, size = task(image)
    color, logits = (
        F.interpolate(x, size, mode="bilinear")[..., :40, :53] for x in (prediction.colors, prediction.logits)
    )
    painted = (torch.tensor(PALETTE)[label.long()].permute(0, 3, 1, 2) / 255 - color).abs().mean()
    torch.testing.assert_close(total, 2 * painted + F.cross_entropy(logits, label.long()))
    total.backward()
    assert task.decoder.decoder.head.weight.grad.abs().sum() > 0


def test_the_palette_is_no_weight():
    keys = set(make().state_dict())
    assert not any("palette" in key for key in keys)
    assert keys == {key.replace("decoder.", "decoder.decoder.") for key in make(SemanticTask).state_dict()}


def test_classes_of_one_colour_are_said_and_the_first_wins():
    with pytest.warns(
        UserWarning, match=r"get the first of them: class 0, class 4; class 1, class 3; "
    ) as said:
        task = make(palette=[PALETTE[2], PALETTE[1], PALETTE[0], PALETTE[1], PALETTE[2]]).eval()
    assert len(said) == 1
    with torch.no_grad():
        assert set(task.segment(torch.rand(1, 3, 64, 64) * 255).unique().tolist()) <= {0, 1, 2}


def test_colours_without_the_color_task_are_refused():
    task = make(SemanticTask, losses=[MeanAbsoluteColor])
    task.log = lambda *args, **kwargs: None
    batch = Batch(torch.zeros(1, 3, 32, 32), torch.zeros(1, 32, 32, dtype=torch.long), ("a",))
    with pytest.raises(ValueError, match="ColorTask"):
        task.training_step(batch, 0)


@torch.no_grad()
def test_compiling_keeps_keys_and_results():
    task = make().eval()
    image = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    keys, before = list(task.state_dict()), task.logits(image)
    task.decoder.compile(backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(task.logits(image), before)
    assert list(task.state_dict()) == keys


@pytest.mark.parametrize("cls", [ColorTask, SemanticTask])
def test_one_batch_is_learnt_by_heart(cls):
    decoder = partial(PatchUNet, feature_dim=None, hidden=(128, 128), dropout=0.0)
    task = make(cls, TINY, decoder)
    task.log = lambda *args, **kwargs: None
    label = torch.zeros(2, 32, 32, dtype=torch.long)
    label[0, 5:20, 9:28], label[0, 22:, :14] = 1, 2
    label[1, :11], label[1, 16:30, 3:17], label[1, 20:26, 20:] = 3, 1, 2
    noise = torch.randint(-40, 40, (2, 3, 32, 32))
    # The photograph's colours are others than the palette's.
    shades = torch.tensor([[200, 200, 90], [60, 60, 60], [90, 60, 200], [60, 200, 200]])
    image = (shades[label].permute(0, 3, 1, 2) + noise).to(torch.uint8)
    optimizer = torch.optim.AdamW(task.parameters(), lr=3e-3)
    for _ in range(80):
        optimizer.zero_grad()
        task.training_step(Batch(image, label, ("a", "b")), 0)["loss"].backward()
        optimizer.step()
    scores = SegmentationScores(4)
    scores.update(task.eval().segment(image), label)
    assert scores.compute()["miou"] > 0.95


TINY_OVERLAY = overlay(
    {"num_images": {"train": 6, "val": 3, "test": 1}, "train_transforms": None},
    {
        "encoder": {"init_args": {"depth": 1, "key_dim": 8, "hidden": [16], "bottleneck": [16]}},
        "decoder": {"init_args": {"hidden": [16]}},
    },
    max_steps=4,
    val_check_interval=2,
)


def test_the_original_trains_resumes_and_segments_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    original = yaml.safe_load((EXPERIMENTS / "patch_unet_original.yaml").read_text())
    del original["data"]
    Path("original.yaml").write_text(yaml.safe_dump(original))
    Path("tiny.yaml").write_text(TINY_OVERLAY)
    configs = ["--config", "original.yaml", "--config", "tiny.yaml"]

    main(["fit", *configs])
    (whole,) = Path("runs").glob("*/*")
    card = json.loads((whole / "run.json").read_text())
    assert [entry["step"] for entry in card["history"]] == [2, 4]
    assert "train/color" in (whole / "metrics.csv").read_text().splitlines()[0]
    saved = torch.load(whole / "checkpoints" / "last.ckpt", weights_only=True)
    rates = [group["lr"] for group in saved["optimizer_states"][0]["param_groups"]]
    assert rates == [0.0015] * len(rates)  # constant

    main(["fit", *configs, "--trainer.max_steps", "2"])
    (half,) = set(Path("runs").glob("*/*")) - {whole}
    last = str(half / "checkpoints" / "last.ckpt")
    main(["fit", "--config", str(half / "config.yaml"), "--ckpt_path", last, "--trainer.max_steps", "4"])
    assert len(list(Path("runs").glob("*/*"))) == 2  # it resumed in its own folder
    resumed = torch.load(last, weights_only=True)["state_dict"]
    assert all(torch.equal(value, resumed[name]) for name, value in saved["state_dict"].items())

    photo = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    cv2.imwrite("photo.png", photo)
    checkpoint = str(whole / "checkpoints" / "last.ckpt")
    main(["segment", "--checkpoint", checkpoint, "photo.png", "--out", "out"])
    labels = np.array(Image.open("out/photo.png"))  # a palette, which OpenCV expands
    task = segbench.load(checkpoint)
    assert isinstance(task, ColorTask)
    expected = task.segment(torch.from_numpy(photo[..., ::-1].copy()).permute(2, 0, 1)[None])[0]
    assert np.array_equal(labels, expected.numpy())
    colors = cv2.imread("out/photo_color.png")[..., ::-1]
    assert np.array_equal(colors, np.array(task.palette)[labels])

    with torch.no_grad():
        painted = task(torch.zeros(1, 3, 32, 32))[0].colors  # the palette came back with the checkpoint
    assert np.array_equal(task.segment(torch.zeros(1, 3, 32, 32))[0].numpy(), nearest(painted[0], task.palette))


def test_losses_that_compare_no_colours_are_refused():
    with pytest.raises(
        ValueError, match="none of them compares colours, so ColorTask would train a classifier"
    ):
        make(losses=[CrossEntropy])

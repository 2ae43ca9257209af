"""Checkpoints of official Segmenter compute in segbench what they compute there."""

from copy import deepcopy

import pytest
import torch
import yaml
from reference import foreign_segmenter
from reference.foreign_segmenter import Segmenter
from reference.slow_windows import shrink_or_grow

import segbench
from segbench.__main__ import main
from segbench.checkpoints.reading import model_config, read_checkpoint
from segbench.commands.convert import segmenter
from segbench.commands.convert.classes import name_classes
from segbench.commands.convert.write import convert
from segbench.data.ade20k import ADE20K_SPEC
from segbench.inference import sliding_window

TOLERANCE = {"rtol": 0, "atol": 2e-5}
SIZES = [(64, 64), (80, 112), (70, 101), (37, 50), (200, 41)]  # the last three padded, or below the window


def photograph(height, width):
    generator = torch.Generator().manual_seed(height * width)
    coarse = torch.rand(1, 3, 7, 9, generator=generator) * 255
    image = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 255)
    return (image + 20 * torch.rand(image.shape, generator=generator)).clamp(0, 255)


def converted(folder, model, *more, **dataset_kwargs):
    path, out = model.save(folder / "run", **dataset_kwargs), folder / "converted.ckpt"
    main(["convert", str(path), "--source", "segmenter", "--out", str(out), *more])
    return out


def windowed(task, image):
    with torch.inference_mode():
        return sliding_window.logits(image, task._window_prediction, task.views.windows)


def change(task, **options):
    """Other windows in evaluation."""
    task.views = task.views._replace(windows=task.views.windows._replace(**options))


def of_reference(model, image, window=64, stride=32, resize=None):
    seen = model.normalized(shrink_or_grow(image, *resize) if resize else image)
    with torch.inference_mode():
        return foreign_segmenter.merged_logits(model, seen, window, stride, tuple(image.shape[2:]))[None]


def check_labels(labels, logits):
    best, second = logits.topk(2, 1).values.unbind(1)
    sure = best - second > 1e-4  # equal ones may fall either way
    assert sure.float().mean() > 0.99
    assert torch.equal(labels[sure].long(), logits.argmax(1)[sure])


KINDS = {
    "linear": {"decoder": "linear"},
    "mask": {"decoder": "mask"},
    "mask of one layer": {"decoder": "mask", "decoder_layers": 1},
    "distilled linear": {"decoder": "linear", "distilled": True},
    "distilled mask": {"decoder": "mask", "distilled": True},
    "patches of 8": {"decoder": "linear", "patch": 8, "crop": (32, 32)},
    "oblong grid": {"decoder": "mask", "crop": (64, 96)},
}


@pytest.mark.parametrize("kind", KINDS)
def test_agrees_whole_and_in_windows(tmp_path, kind):
    model = Segmenter(**KINDS[kind]).eval()
    crop = model.crop[0]
    task = segbench.load(converted(tmp_path, model, dataset="other", crop_size=crop))
    assert task.views.windows.window == (crop, crop)
    assert task.views.windows.stride == (max(1, crop - 32),) * 2
    assert task.views.windows.resize == (4 * crop, crop)  # no dataset of Segmenter's
    for size in SIZES:
        image = photograph(*size)
        with torch.inference_mode():
            torch.testing.assert_close(task.logits(image), model(model.normalized(image)), **TOLERANCE)
        expected = of_reference(model, image, crop, max(1, crop - 32), task.views.windows.resize)
        torch.testing.assert_close(windowed(task, image), expected, **TOLERANCE)
        check_labels(task.segment(image), expected)


def test_logits_are_averaged_then_resized_then_softmaxed_then_averaged_over_views(mask):
    model, task = mask[0], deepcopy(mask[1])
    task.views = task.views._replace(scales=[0.5, 1.0], flip=True)
    image, window, stride = photograph(70, 101), 64, 32
    views, flips = [], []
    for scale in (0.5, 1.0):
        seen = shrink_or_grow(image, int(256 * scale), int(64 * scale))
        views += [model.normalized(seen), model.normalized(seen.flip(3))]
        flips += [False, True]
    with torch.inference_mode():
        found = next(iter(task.predict_proba(image))).probabilities
        expected = foreign_segmenter.probabilities(model, views, flips, window, stride, (70, 101))
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)
        early = 0.0  # the softmax of what is smaller, resized: what must not be
        for view, flip in zip(views, flips, strict=True):
            size = tuple(max(side, int(64 * side / min(view.shape[2:]))) for side in view.shape[2:])
            logits = foreign_segmenter.merged_logits(model, view, window, stride, size).softmax(0)
            resized = foreign_segmenter.bilinear(logits[None], (70, 101))[0]
            early = early + (resized.flip(2) if flip else resized) / 4
    assert (early - expected).abs().max() > 1e-4


@pytest.fixture(scope="module")
def mask(tmp_path_factory):
    """A network and what it became."""
    model = Segmenter("mask").eval()
    return model, segbench.load(converted(tmp_path_factory.mktemp("mask"), model, dataset="other"))


def epsilon(task):
    for module in task.encoder.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-6


TRAPS = {  # what steps into it, the image that shows it, and the limits to which that is scaled
    "epsilon": (epsilon, (64, 64), None),
    "bicubic": (lambda task: setattr(task.encoder.vit, "pos_embed_resampling", "bicubic"), (80, 112), None),
    "pixels": (lambda task: task.encoder.pixel_mean.sub_(4), (64, 64), None),
    "cropped": (lambda task: setattr(task, "upsample_to", "image"), (70, 101), None),
    "stride": (lambda task: change(task, stride=(64, 64)), (80, 112), None),
    "small": (lambda task: change(task, small_images="whole"), (37, 50), None),
    "resize": (lambda task: change(task, resize=None), (80, 112), (256, 64)),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_every_trap_shows(mask, trap):
    (model, converted_task), (step, size, resize) = mask, TRAPS[trap]
    task, image = deepcopy(converted_task), photograph(*size)
    change(task, resize=resize)
    if trap in {"bicubic", "cropped"}:
        change(task, window=None, stride=None)  # the image in one piece, which no window of the grid's size is
        with torch.inference_mode():
            expected = model(model.normalized(image))
    else:
        expected = of_reference(model, image, resize=resize)
    torch.testing.assert_close(windowed(task, image), expected, **TOLERANCE)
    step(task)
    assert (windowed(task, image) - expected).abs().max() > 1e-4


def test_training_continues_as_in_mmsegmentation(mask):
    """One step of the configured optimiser and schedule is timm's sgd (Nesterov) on Segmenter's polynomial."""
    task = mask[1]
    weight = torch.nn.Parameter(torch.ones(3))
    ours = task._optimizer([weight])
    schedule = task._schedule(ours, 10)
    by_hand, velocity, plain = torch.ones(3), torch.zeros(3), torch.ones(3)
    for step in range(4):
        weight.grad = gradient = weight.detach() * (step + 1)
        rate = (0.001 - 1e-5) * (1 - step / 10) ** 0.9 + 1e-5
        velocity = 0.9 * velocity + gradient
        by_hand = by_hand - rate * (gradient + 0.9 * velocity)
        plain = plain - rate * velocity
        ours.step()
        schedule.step()
    torch.testing.assert_close(weight.detach(), by_hand, rtol=1e-6, atol=0)
    assert (by_hand - plain).abs().max() > 1e-3
    assert task.losses[0].mean_over == "valid"


def test_ade20k_has_its_names_colours_and_protocol(tmp_path, capsys):
    model = Segmenter("mask", classes=150, layers=1)
    said = model_config(read_checkpoint(converted(tmp_path, model)))["init_args"]
    assert said["class_names"] == list(ADE20K_SPEC.classes)
    assert said["palette"] == [list(color) for color in ADE20K_SPEC.palette]
    assert said["resize"] == [2048, 512]
    assert said["encoder"]["init_args"]["drop_path_rate"] == 0.1
    assert said["decoder"]["init_args"]["dropout"] == 0.1
    told = capsys.readouterr().out
    assert "Segmenter, ViT-Ti/16 of 1 blocks, mask transformer; 150 classes" in told
    assert "encoder.head.weight, encoder.head.bias: the classifier of pre-training" in told
    assert "not converted: the state of the training (optimizer, lr_scheduler, epoch)" in told


@pytest.mark.parametrize(
    ("dataset", "classes", "first", "resize"),
    [("cityscapes", 19, "road", (2048, 1024)), ("pascal_context", 60, "background", (4160, 520))],
)
def test_other_datasets_of_segmenter(tmp_path, dataset, classes, first, resize):
    out = converted(tmp_path, Segmenter("linear", classes, layers=1), dataset=dataset)
    said = model_config(read_checkpoint(out))["init_args"]
    assert said["class_names"][0] == first
    assert len({*said["class_names"]}) == len(said["palette"]) == classes
    assert tuple(said["resize"]) == resize


def test_classes_from_a_file_and_numbered_ones(tmp_path, capsys):
    model = Segmenter("linear", classes=3, layers=1)
    assert segbench.load(converted(tmp_path, model)).class_names == ["class 0", "class 1", "class 2"]
    assert "they are numbered; name them by --classes FILE" in capsys.readouterr().out
    (tmp_path / "converted.ckpt").unlink()
    (tmp_path / "names.txt").write_text("1 2 3 sky\n4 5 6 road\n7 8 9 car\n")
    task = segbench.load(converted(tmp_path, model, "--classes", str(tmp_path / "names.txt")))
    assert task.class_names == ["sky", "road", "car"]
    assert task.palette == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


@pytest.mark.slow
def test_segment_and_test_work_on_the_result(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint = converted(tmp_path, Segmenter("mask", classes=150, layers=1))
    main(["synth", "--dataset", "ade20k", "--root", "ade", "--images", "1", "--size", "[70, 101]"])
    photograph_file = next(tmp_path.glob("ade/**/images/validation/*.jpg"))
    main(
        [
            "segment",
            "--checkpoint",
            str(checkpoint),
            str(photograph_file),
            "--out",
            "out",
            "--window",
            "[64, 64]",
        ]
    )
    assert len(list((tmp_path / "out").glob("*.png"))) == 3
    options = ["--data.init_args.root", "ade", "--data.init_args.num_workers", "0"]
    small = ["--model.init_args.resize", "[200, 70]", "--trainer.accelerator", "cpu"]
    main(["test", "--checkpoint", str(checkpoint), *options, *small, "--trainer.enable_progress_bar", "false"])
    assert next(tmp_path.glob("runs/*/*/run.json")).is_file()


def test_the_card_of_a_converted_model_claims_no_training_of_its_own(tmp_path):
    checkpoint, out = converted(tmp_path, Segmenter("linear", layers=1)), tmp_path / "hub"
    main(["export", "--checkpoint", str(checkpoint), "--format", "huggingface", "--out", str(out)])
    text = (out / "README.md").read_text()
    assert "Trained elsewhere, and converted by `segbench convert` (Segmenter, ViT-Ti/16 of 1 blocks" in text
    assert "optimiser steps" not in text


def test_an_optimiser_that_is_not_taken_over_is_named(tmp_path, capsys):
    path = Segmenter("linear", layers=1).save(tmp_path / "run")
    variant = path.parent / "variant.yml"
    variant.write_text(variant.read_text().replace("opt: sgd", "opt: adamw"))
    main(["convert", str(path), "--source", "segmenter", "--out", str(tmp_path / "x.ckpt")])
    assert "the optimiser adamw is not taken over" in capsys.readouterr().out


VARIANTS = {  # of the checkpoints that are published
    "seg_tiny_mask": (192, 16, 12, 512, "mask", 2, False, 150, 6_906_388),
    "seg_small_mask": (384, 16, 12, 512, "mask", 2, False, 150, 26_418_964),
    "seg_base_mask": (768, 16, 12, 512, "mask", 2, False, 150, 103_266_580),
    "seg_base_patch8": (768, 8, 12, 512, "linear", 0, False, 150, 89_235_838),
    "seg_base_deit_linear": (768, 16, 12, 512, "linear", 0, True, 150, 88_089_446),
    "seg_base_deit_mask": (768, 16, 12, 512, "mask", 2, True, 150, None),
    "seg_large_mask_640": (1024, 16, 24, 640, "mask", 2, False, 150, 334_259_476),
    "pascal_context_large": (1024, 16, 24, 480, "mask", 2, False, 60, None),
    "cityscapes_large": (1024, 16, 24, 768, "mask", 1, False, 19, None),
}


QUICK = ("seg_tiny_mask", "seg_base_patch8", "seg_base_deit_mask", "seg_large_mask_640")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS]
)
def test_every_published_variant_is_filled_at_its_size(tmp_path, name):
    """Names and shapes as published; every weight is one number, seen from everywhere."""
    width, patch, layers, crop, decoder, decoder_layers, distilled, classes, published = VARIANTS[name]
    with torch.device("meta"):
        model = Segmenter.__new__(Segmenter)
        torch.nn.Module.__init__(model)
        model.classes, model.crop, model.patch = classes, (crop, crop), patch
        model.name, model.distilled = decoder, distilled
        model.encoder = foreign_segmenter.Encoder((crop, crop), patch, width, width // 64, layers, distilled)
        model.encoder.head = torch.nn.Linear(width, 1000)
        if distilled:
            model.encoder.head_dist = torch.nn.Linear(width, 1000)
        kinds = {"linear": lambda: foreign_segmenter.Linear(width, classes)}
        kinds["mask"] = lambda: foreign_segmenter.Mask(width, classes, decoder_layers)
        model.decoder = kinds[decoder]()
    state = {key: torch.full((), 0.5).expand(value.shape) for key, value in model.state_dict().items()}
    if published is not None:
        assert sum(value.numel() for value in state.values()) == published
    path = tmp_path / "checkpoint.pth"
    dataset = {150: "ade20k", 60: "pascal_context", 19: "cityscapes"}[classes]
    path.with_name("variant.yml").write_text(yaml.dump(model.variant(dataset=dataset)))
    network = segmenter.describe({"model": state, "n_cls": classes}, path, None, None)
    names, palette, _ = name_classes(network, None)
    result = convert(network, names, palette, path)
    assert result["hyper_parameters"]["window"] == [crop, crop]
    assert result["hyper_parameters"]["stride"] == [crop - 32, crop - 32]
    assert set(result["segbench"]["dropped"]) == {
        "the classifier of pre-training, which segmentation never uses"
    }

"""Checkpoints of MMSegmentation, and of the MeanShifter's fork, compute in segbench what they compute there."""

import re
import zipfile
from copy import deepcopy

import numpy as np
import pytest
import torch
from commands.convert.test_segmenter_checkpoints import change, check_labels, photograph, windowed
from reference import foreign_mmsegmentation
from reference.foreign_mmsegmentation import EncoderDecoder, normalized
from reference.slow_windows import shrink_or_grow

import segbench
from segbench.__main__ import main
from segbench.checkpoints.reading import model_config, read_checkpoint
from segbench.commands.convert.reading import read_foreign
from segbench.necks.mean_shift import MeanShift
from segbench.types import Batch

TOLERANCE = {"rtol": 0, "atol": 2e-5}
SIZES = [(64, 64), (80, 112), (70, 101), (37, 50), (41, 200)]  # padded, below the window, in one side alone


def converted(folder, model, version="0.x", *more):
    path, out = model.save(folder / "latest.pth", version), folder / "converted.ckpt"
    main(["convert", str(path), "--source", "mmsegmentation", "--out", str(out), *more])
    return out


def of_reference(model, image, resize=None, stride=None):
    seen = normalized(shrink_or_grow(image, *resize) if resize else image)
    stride = stride or (model.crop[0] - 16, model.crop[1] - 16)
    with torch.inference_mode():
        return foreign_mmsegmentation.slide(model, seen, model.crop, stride, tuple(image.shape[2:]))[None]


KINDS = {
    "linear": ({"head": "linear"}, "0.x"),
    "mask": ({"head": "mask"}, "1.x"),
    "mean shift": ({"head": "mean shift"}, "0.x"),
    "mean shift, patches of 8": ({"head": "mean shift", "patch": 8, "crop": (32, 32), "iterations": 3}, "1.x"),
    "mask, oblong grid": ({"head": "mask", "crop": (64, 96)}, "0.x"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_agrees_whole_and_in_windows(tmp_path, kind):
    options, version = KINDS[kind]
    model = EncoderDecoder(**options).eval()
    task = segbench.load(converted(tmp_path, model, version))
    assert task.views.windows.window == model.crop
    assert task.views.windows.stride == (model.crop[0] - 16, model.crop[1] - 16)
    assert task.views.windows.resize == (300, 90)
    assert task.class_names == [f"kind {index}" for index in range(5)]
    assert task.palette[4] == [4, 7, 9]
    for size in SIZES:
        image = photograph(*size)
        with torch.inference_mode():
            torch.testing.assert_close(task.logits(image), model(normalized(image)), **TOLERANCE)
        for resize in (None, (300, 90)):
            change(task, resize=resize)
            expected = of_reference(model, image, resize)
            torch.testing.assert_close(windowed(task, image), expected, **TOLERANCE)
            check_labels(task.segment(image), expected)


@pytest.fixture(scope="module")
def mask(tmp_path_factory):
    model = EncoderDecoder("mask").eval()
    return model, segbench.load(converted(tmp_path_factory.mktemp("mask"), model))


def epsilon(part):
    def step(task):
        for module in getattr(task, part).modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.eps = 1e-5 if part == "encoder" else 1e-6

    return step


def transpose(name):
    def step(task):
        projection = getattr(task.decoder, name).data
        projection.copy_(projection.t().clone())

    return step


TRAPS = {
    "epsilon of the backbone": (epsilon("encoder"), (64, 64)),
    "epsilon of the head": (epsilon("decoder"), (64, 64)),
    "bilinear": (lambda task: setattr(task.encoder.vit, "pos_embed_resampling", "bilinear"), (37, 50)),
    "antialias": (
        lambda task: setattr(task.encoder.vit, "pos_embed_resampling", "bicubic-antialias"),
        (37, 50),
    ),
    "padded": (lambda task: setattr(task, "upsample_to", "padded"), (37, 50)),
    "enlarged": (lambda task: change(task, small_images="enlarge"), (41, 200)),
    "stride": (lambda task: change(task, stride=(64, 64)), (80, 200)),
    "patch_proj": (transpose("proj_patch"), (64, 64)),
    "classes_proj": (transpose("proj_classes"), (64, 64)),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_every_trap_shows(mask, trap):
    (model, converted_task), (step, size) = mask, TRAPS[trap]
    task, image = deepcopy(converted_task), photograph(*size)
    change(task, resize=None)
    expected = of_reference(model, image)
    torch.testing.assert_close(windowed(task, image), expected, **TOLERANCE)
    step(task)
    assert (windowed(task, image) - expected).abs().max() > 4e-5


@pytest.mark.parametrize("version", ["0.x", "1.x"])
def test_training_continues_as_in_mmsegmentation(tmp_path, version):
    said = model_config(read_checkpoint(converted(tmp_path, EncoderDecoder("mask"), version)))["init_args"]
    sgd = {"lr": 0.002, "momentum": 0.8, "weight_decay": 0.0, "nesterov": False}
    assert said["optimizer"] == {"class_path": "torch.optim.SGD", "init_args": sgd}
    assert said["schedule"]["init_args"] == {"power": 0.7, "min_lr": 0.0003}
    assert said["decoder"]["init_args"]["dropout"] == 0.0
    assert said["decoder"]["init_args"]["drop_path_rate"] == 0.1
    assert said["losses"][0]["init_args"] == {"mean_over": "all"}


def test_the_loss_sees_the_unpadded_size(mask):
    """Labels of a crop that is not a whole number of patches are not padded, as logits are not."""
    model, task = mask[0], deepcopy(mask[1])
    image, label = photograph(70, 101), torch.randint(0, 5, (1, 70, 101))
    label[0, :10] = 255
    task.log = lambda *_, **__: None
    with torch.inference_mode():
        found = task.training_step(Batch(image, label, ("one",)), 0)
        logits = model(normalized(image))
        expected = torch.nn.functional.cross_entropy(logits, label, ignore_index=255, reduction="sum") / (
            70 * 101
        )
    assert found["label"].shape == (1, 70, 101)
    torch.testing.assert_close(found["loss"], expected, rtol=1e-5, atol=0)


def test_without_configuration_what_was_published_is_taken_and_said(tmp_path, capsys):
    model = EncoderDecoder("mask", layers=1).eval()
    task = segbench.load(converted(tmp_path, model, "plain"))
    assert "no configuration in the file" in capsys.readouterr().out
    assert (task.views.windows.window, task.views.windows.stride, task.views.windows.resize) == (
        (64, 64),
        (32, 32),
        (256, 64),
    )
    image = photograph(70, 101)
    with torch.inference_mode():
        torch.testing.assert_close(task.logits(image), model(normalized(image)), **TOLERANCE)


def test_iterations_of_mean_shift_must_come_from_somewhere(tmp_path, capsys):
    model = EncoderDecoder("mean shift", layers=1)
    with pytest.raises(SystemExit):
        converted(tmp_path, model, "plain")
    assert "give it by --neck_iterations N or --config FILE" in capsys.readouterr().err
    assert not (tmp_path / "converted.ckpt").exists()
    task = segbench.load(converted(tmp_path, model, "plain", "--neck_iterations", "3"))
    (neck,) = task.necks
    assert isinstance(neck, MeanShift)
    assert neck.iterations == 3
    (tmp_path / "converted.ckpt").unlink()
    (tmp_path / "resolved.py").write_text(model.config("0.x"))
    task = segbench.load(converted(tmp_path, model, "plain", "--config", str(tmp_path / "resolved.py")))
    assert task.necks[0].iterations == 2
    (tmp_path / "converted.ckpt").unlink()
    with pytest.raises(SystemExit):
        converted(tmp_path, model, "0.x", "--neck_iterations", "0")
    assert "--neck_iterations must be at least 1; got 0" in capsys.readouterr().err


def test_an_early_head_with_a_classifier_it_never_used(tmp_path, capsys):
    model = EncoderDecoder("mask", layers=1)
    model.decode_head.conv_seg = torch.nn.Conv2d(192, 5, 1)
    converted(tmp_path, model)
    assert "decode_head.conv_seg.weight, decode_head.conv_seg.bias: a classifier" in capsys.readouterr().out


def test_what_only_training_needs_is_dropped_by_name(tmp_path, capsys):
    model = EncoderDecoder("linear", layers=1)
    image = photograph(64, 64)
    with torch.inference_mode():
        expected = model.eval()(normalized(image))
    for name, value in list(model.named_parameters()):
        model.register_buffer(f"ema_{name.replace('.', '_')}", value.detach() + 1)  # as MMCV 1 keeps averages
    model.auxiliary_head = torch.nn.Sequential(torch.nn.Conv2d(192, 8, 3), torch.nn.BatchNorm2d(8))
    task = segbench.load(converted(tmp_path, model))
    told = capsys.readouterr().out
    assert "auxiliary_head.1.num_batches_tracked: a head that helps in training alone" in told
    assert "ema_decode_head_conv_seg_bias: what MMCV's averaging" in told
    with torch.inference_mode():
        torch.testing.assert_close(task.logits(image), expected, **TOLERANCE)


def test_a_model_of_several_devices(tmp_path):
    path, out = tmp_path / "latest.pth", tmp_path / "converted.ckpt"
    model = EncoderDecoder("linear", layers=1)
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save({"meta": model.meta("0.x"), "state_dict": state}, path)
    main(["convert", str(path), "--source", "mmsegmentation", "--out", str(out)])
    assert torch.equal(segbench.load(out).encoder.vit.cls_token, model.state_dict()["backbone.cls_token"])


def test_dictionaries_whose_keys_are_no_names(tmp_path):
    """OpenMMLab writes them as `dict({...})`; what stands beside them counts no less."""
    model = EncoderDecoder("mask", layers=1)
    text = model.config("0.x").replace("drop_path_rate=0.1,", "drop_path_rate=0.3, init_cfg=dict({'a.b': 1}),")
    custom = "optimizer = dict(paramwise_cfg=dict(custom_keys=dict({'.backbone': dict(lr_mult=0.1)})), "
    text = text.replace("eps=1e-06", "eps=1e-04").replace("optimizer = dict(", custom)
    (tmp_path / "resolved.py").write_text(text)
    more = ["--config", str(tmp_path / "resolved.py")]
    said = model_config(read_checkpoint(converted(tmp_path, model, "0.x", *more)))["init_args"]
    assert said["encoder"]["init_args"]["norm_eps"] == 1e-4
    assert said["encoder"]["init_args"]["drop_path_rate"] == 0.3
    assert said["optimizer"]["init_args"]["lr"] == 0.002


STEPS = """[dict(type='LoadImageFromFile'), dict(type='MultiScaleFlipAug', img_scale=(400, 80), transforms=[
    dict(type='Resize', keep_ratio=True), dict(type='RandomFlip'), dict(type='Pad', size_divisor=32),
    dict(type='Normalize', mean=[1.5, 2, 3], std=[4, 5, 6], to_rgb=True), dict(type='Collect')])]"""
RUN = {  # what a configuration adds, its version; mean, resize and note that follow
    "steps of the data": (
        f"data = dict(test=dict(pipeline={STEPS}))",
        "0.x",
        [1.5, 2.0, 3.0],
        [400, 80],
        "Pad of",
    ),
    "the name they have": (f"test_pipeline = {STEPS}", "0.x", [1.5, 2.0, 3.0], [400, 80], "Pad of"),
    "steps of the loader": (
        "test_dataloader = dict(dataset=dict(pipeline=[dict(type='Resize', scale=(99, 64), keep_ratio=True)]))",
        "1.x",
        [127.5] * 3,
        [99, 64],
        "",
    ),
    "no step resizes": ("test_pipeline = [dict(type='PackSegInputs')]", "1.x", [127.5] * 3, None, ""),
}


@pytest.mark.parametrize("kind", RUN)
def test_an_image_is_prepared_by_the_steps_that_are_run_there(tmp_path, capsys, kind):
    """What configurations call img_norm_cfg or test_pipeline does nothing where other steps are run."""
    added, version, mean, resize, note = RUN[kind]
    model = EncoderDecoder("linear", layers=1)
    (tmp_path / "resolved.py").write_text(f"{model.config(version)}\n{added}\n")
    more = ["--config", str(tmp_path / "resolved.py")]
    said = model_config(read_checkpoint(converted(tmp_path, model, version, *more)))["init_args"]
    assert said["encoder"]["init_args"]["pixel_mean"] == mean
    assert said["resize"] == resize
    assert note in capsys.readouterr().out


def test_a_configuration_of_the_model_alone_takes_published_statistics_and_says_so(tmp_path, capsys):
    model = EncoderDecoder("linear", layers=1)
    (tmp_path / "model.py").write_text(model.config("0.x").split("img_norm_cfg")[0])
    checkpoint = converted(tmp_path, model, "0.x", "--config", str(tmp_path / "model.py"))
    said = model_config(read_checkpoint(checkpoint))["init_args"]["encoder"]["init_args"]
    assert said["pixel_mean"] == said["pixel_std"] == [127.5] * 3
    assert "mean and std of pixels are not told: 127.5 is taken" in capsys.readouterr().out


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_scores_that_are_numbers_of_numpy_are_read(tmp_path, module):
    """MMSegmentation leaves them there where the best checkpoint was saved, under NumPy's name of its time."""
    model = EncoderDecoder("linear", layers=1)
    scores = {
        "best_score": np.float64(0.41),
        "classes": np.int64(3),
        "done": np.bool_(True),
        "half": np.float16(1),
    }
    content = {"meta": model.meta("0.x") | {"hook_msgs": scores}, "state_dict": model.state_dict()}
    torch.save(content, tmp_path / "new.pth")
    old, out = tmp_path / "old.pth", tmp_path / "converted.ckpt"
    with zipfile.ZipFile(tmp_path / "new.pth") as source, zipfile.ZipFile(old, "w") as target:
        for part in source.namelist():
            data = source.read(part)
            renamed = data.replace(b"numpy._core.multiarray\nscalar", f"{module}\nscalar".encode())
            assert f"{module}\nscalar".encode() in renamed or not part.endswith("data.pkl")
            target.writestr(part, renamed)
    assert read_foreign(old)["meta"]["hook_msgs"] == scores
    main(["convert", str(old), "--source", "mmsegmentation", "--out", str(out)])
    assert segbench.load(out).num_classes == 5


class HistoryBuffer:
    """Stands for MMEngine's, which every checkpoint of a training of its own holds."""

    def __init__(self):
        self.history = np.zeros(2)


@pytest.mark.slow
def test_a_file_of_mmengine_made_plain_keeps_names_and_configuration(tmp_path, capsys, monkeypatch):
    model, path = EncoderDecoder("mean shift", layers=1), tmp_path / "OLD"
    meta = model.meta("1.x") | {"best": np.float64(0.4)}
    meta["dataset_meta"]["palette"] = np.array(meta["dataset_meta"]["palette"])
    hub = {"log_scalars": {"train/loss": HistoryBuffer()}}
    torch.save({"meta": meta, "state_dict": model.state_dict(), "message_hub": hub}, path)
    with pytest.raises(SystemExit):
        main(["convert", str(path), "--source", "mmsegmentation", "--out", str(tmp_path / "x.ckpt")])
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    monkeypatch.chdir(tmp_path)
    exec(re.search(r'python -c "(.+?)"', told)[1], {})
    out = tmp_path / "plain.ckpt"
    main(["convert", str(tmp_path / "PLAIN"), "--source", "mmsegmentation", "--out", str(out)])
    task = segbench.load(out)
    assert (task.class_names[4], task.palette[4], task.necks[0].iterations) == ("kind 4", [4, 7, 9], 2)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("num_heads=3,", "num_heads=6,", "num_heads is 6; known here is 3"),
        ("interpolate_mode='bicubic'", "interpolate_mode='nearest'", "interpolate_mode is 'nearest'"),
        ("to_rgb=True", "to_rgb=False", "to_rgb is False"),
        ("norm_cfg=dict(type='LN', eps=1e-06", "norm_cfg=dict(type='LN', eps=-1.0", "eps is -1.0"),
        ("stride=(48, 48)", "stride=(80, 80)", "stride (80, 80) exceeds window (64, 64)"),
        ("type='Resize', keep_ratio=True", "type='Resize', keep_ratio=False", "without keeping their shape"),
        ("type='Resize', keep_ratio=True", "type='Resize', scale=(90, 90)", "without keeping their shape"),
        ("num_layers=1", "num_layers=12", "num_layers is 12; known here is 1"),
        ("backbone=dict(", "backbone=make(", "backbone.img_size is computed"),
        ("norm_cfg=dict(type='LN', eps=1e-06", "norm_cfg=dict(eps=10**-6", "norm_cfg.eps is computed"),
        ("dataset_type", "model['backbone']['drop_path_rate'] = 0\ndataset_type", "is not an assignment"),
        ("img_norm_cfg = dict(", "unused = dict(", "mean and std of pixels are not in the configuration"),
        (
            "    test_cfg=",
            "    data_preprocessor=dict(type='PreProcessor', mean=[0, 0, 0], std=[1, 1, 1]),\n    test_cfg=",
            "data_preprocessor: bgr_to_rgb is False",
        ),
        ("std=[127.5, 127.5, 127.5]", "std=[0, 0, 0]", "std of pixels is [0, 0, 0]"),
        ("num_classes=5", "num_classes=150", "decodes 5 classes, but its configuration says 150"),
        ("img_size=(64, 64)", "img_size=(64, 96)", "not a grid of 4×6"),
        ("norm_cfg = dict(", "_base_ = ['other.py']\nnorm_cfg = dict(", "builds on other files"),
        ("model = dict(", "model = = dict(", "configuration is not understood"),
    ],
)
def test_what_the_weights_do_not_show_is_read_from_the_configuration(tmp_path, capsys, before, after, message):
    model = EncoderDecoder("linear", layers=1)
    (tmp_path / "resolved.py").write_text(model.config("0.x").replace(before, after, 1))
    with pytest.raises(SystemExit):
        converted(tmp_path, model, "0.x", "--config", str(tmp_path / "resolved.py"))
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert not (tmp_path / "converted.ckpt").exists()

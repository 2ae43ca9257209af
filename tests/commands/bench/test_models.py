from functools import partialmethod
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from segbench.commands.bench import models
from segbench.commands.bench.baseline import PlainSegmenter
from segbench.commands.bench.experiments import Changes, build, find_experiments
from segbench.commands.bench.models import Setup, sections
from segbench.commands.bench.section import Clock

EXPERIMENTS = Path(__file__).parents[3] / "experiments"
CLOCK = Clock(torch.device("cpu"), repeats=1)
SMALL = Changes((32, 48), 5)


def write(folder, name, change=lambda config: None):
    """An experiment of one block, without anything random."""
    config = yaml.safe_load((EXPERIMENTS / f"{name}.yaml").read_text())
    config["model"]["init_args"]["encoder"]["init_args"] |= {"depths": [0], "drop_path_rate": 0.0}
    change(config)
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


def rows_of(section):
    return {(row["case"], row["variant"]): row for case in section.cases.values() for row in case(CLOCK)}


def test_experiments_are_found_by_their_files():
    assert {"linear", "mask", "attention_unet"} <= find_experiments(EXPERIMENTS).keys()
    assert "ade20k" not in find_experiments(EXPERIMENTS)
    with pytest.raises(ValueError, match="no YAML of an experiment"):
        find_experiments(EXPERIMENTS / "pictures")


@pytest.mark.parametrize(
    ("name", "img_size", "num_classes", "parameters"),
    [("linear", (512, 512), 150, 5_712_342), ("patch_unet_original", (256, 256), 19, 60_927_264)],
)
def test_models_are_built_as_published_without_weights_or_data(name, img_size, num_classes, parameters):
    model = build(EXPERIMENTS / f"{name}.yaml", Changes())
    assert (model.img_size, model.num_classes) == (img_size, num_classes)
    assert sum(p.numel() for p in model.task.parameters()) == parameters
    assert not Path("data").exists()


@pytest.mark.skipif(torch.__version__ < "2.15", reason="torch 2.14 does not count FLOPs of attention on CPUs")
def test_parameters_and_flops_of_each_part(tmp_path):
    size, *_ = sections({"linear": write(tmp_path, "linear")}, Setup(SMALL))
    (row,) = size.cases["linear"](CLOCK)
    task = build(tmp_path / "linear.yaml", SMALL).task
    assert row["parameters"]["decoder"] == 192 * 5 + 5
    assert row["parameters"]["encoder"] == sum(p.numel() for p in task.encoder.parameters())
    d, n = 192, 2 * 3
    patches, block = 2 * n * d * 3 * 16**2, 24 * d**2 * (n + 1) + 4 * (n + 1) ** 2 * d
    assert row["flops"] == {
        "encoder": patches + block,
        "necks": 0,
        "decoder": 2 * n * d * 5,
        "total": patches + block + 2 * n * d * 5,
    }


def test_training_and_evaluation_stand_beside_the_plain_baseline(tmp_path):
    files = {name: write(tmp_path, name) for name in ("mask", "meanshift")}
    _, training, evaluation = sections(files, Setup(SMALL, batch_size=1))
    steps, images = rows_of(training), rows_of(evaluation)
    assert steps["mask", "segbench"]["ratio"] > 0
    assert steps["mask", "segbench"]["loss_difference"] < 1e-5
    assert images["mask", "segbench"]["agreement"] == 1
    for rows, parts in (
        (steps, ("encoder", "necks, decoder", "loss", "optimiser")),
        (images, ("encoder", "necks, decoder", "labels")),
    ):
        assert all(rows[name, f"{part} alone"]["median_s"] > 0 for name in files for part in parts)
        assert "only Segmenter" in rows["meanshift", "plain"]["reason"]
        assert rows["meanshift", "segbench"]["ratio"] is None


def test_more_classes_than_bytes_count(tmp_path):
    files = {"linear": write(tmp_path, "linear")}
    training = sections(files, Setup(Changes((32, 48), 300), batch_size=1))[1]
    assert rows_of(training)["linear", "segbench"]["loss_difference"] < 1e-5


@pytest.mark.slow  # bf16 crawls on processors without instructions for it
def test_half_precision_has_a_baseline_of_either_kind(tmp_path):
    _, training, evaluation = sections({"linear": write(tmp_path, "linear")}, Setup(SMALL, 1, "bf16"))
    for rows in (rows_of(training), rows_of(evaluation)):
        assert [variant for _, variant in rows][:3] == ["plain", "plain, bf16", "segbench"]


@pytest.mark.slow
# torch's compiler looks at the gradient of what one compiled part hands to the next.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_compiled_models_stand_beside_the_others(tmp_path, monkeypatch):
    compile_parts, compiled = models.SemanticTask.compile_parts, []

    def compile_quickly(task):
        compiled.append(task)
        with monkeypatch.context() as patch:  # inductor takes a minute
            patch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="eager"))
            compile_parts(task)

    monkeypatch.setattr(models.SemanticTask, "compile_parts", compile_quickly)
    _, training, evaluation = sections({"linear": write(tmp_path, "linear")}, Setup(SMALL, 1, compile=True))
    for rows in (rows_of(training), rows_of(evaluation)):
        assert [variant for _, variant in rows][:3] == ["plain", "segbench", "segbench, compiled"]
        assert rows["linear", "segbench, compiled"]["ratio"] > 0
    assert len(compiled) == 2
    assert all(task.encoder._compiled_call_impl for task in compiled)


def test_a_step_of_the_baseline_is_the_step_of_the_task(tmp_path):
    task = build(write(tmp_path, "linear"), SMALL).task.train()
    task.log = models._unheard
    plain = PlainSegmenter(task).train()
    before = task.decoder.head.weight.detach().clone()
    image = torch.randint(256, (2, 3, 32, 48), dtype=torch.uint8)
    label = torch.randint(5, (2, 32, 48), dtype=torch.uint8)
    exact = lambda: models._autocast(CLOCK.device, "fp32")  # noqa: E731
    plain_optimizer, optimizer = models._optimizer_of(task, plain), models._optimizer(task)
    for _ in range(3):  # momentum too
        models._plain_step(plain, plain_optimizer, image, label, exact)
        models._step(task, optimizer, models.Batch(image, label, ("a", "b")), exact)
    assert not torch.equal(task.decoder.head.weight, before)
    for ours, theirs in ((task.encoder, plain.encoder), (task.decoder, plain.decoder)):
        for name, parameter in ours.named_parameters():
            torch.testing.assert_close(parameter, theirs.get_parameter(name), rtol=1e-4, atol=1e-6)


def test_what_cannot_be_built_says_why(tmp_path):
    def wrong(config):
        config["model"]["init_args"]["encoder"]["init_args"]["model_name"] = "resnet18"

    files = {"linear": write(tmp_path, "linear", wrong), "notes": tmp_path / "notes.yaml"}
    files["notes"].write_text("just: notes\n")
    size, *_ = sections(files, Setup(SMALL))
    linear, notes = (case(CLOCK)[0] for case in size.cases.values())
    assert "resnet18" in linear["reason"]
    assert "needs `model` and `data`" in notes["reason"]

"""Runs that begin where others ended: the attention U-Net's three stages, and what they refuse."""

from pathlib import Path

import pytest
import torch
from tiny import overlay
from torch import nn

from segbench.__main__ import main
from segbench.callbacks.init_from_checkpoint import InitFromCheckpoint, fill

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
TINY = overlay(
    {"num_classes": 24, "image_size": [32, 32]},
    {"encoder": {"init_args": {"base_features": 8}}},
    max_steps=2,
    val_check_interval=2,
    num_sanity_val_steps=0,
)


class Lab:
    """A folder in which stages are trained."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "tiny.yaml").write_text(TINY)

    def fit(self, stage, *more):
        runs = self.folder / "runs" / stage
        before = set(runs.glob("*"))
        names = ["attention_unet", f"stages/{stage}", "stages/class_weights"]
        configs = [*(EXPERIMENTS / f"{name}.yaml" for name in names), self.folder / "tiny.yaml"]
        options = [word for config in configs for word in ("--config", str(config))]
        main(["fit", *options, "--runs_dir", str(runs.parent), "--experiment", stage, *more])
        (run,) = set(runs.glob("*")) - before
        return run / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return Lab(tmp_path_factory.mktemp("stages"))


@pytest.fixture(scope="module")
def plain(lab):
    return lab.fit("plain")


@pytest.fixture(scope="module")
def bottleneck(lab, plain):
    copy = lab.folder / "plain.ckpt"
    copy.write_bytes(plain.read_bytes())
    last = lab.fit("bottleneck", "--start.checkpoint", str(copy))
    copy.unlink()
    return last


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


def test_the_second_stage_keeps_all_weights_but_those_of_a_fresh_bottleneck(plain, bottleneck):
    one, two = weights(plain), weights(bottleneck)
    fresh = {name for name in two if name.startswith("decoder.bottleneck.")}
    assert any("attention1" in name for name in fresh)
    assert not any("attention1" in name for name in one)
    assert two.keys() - fresh == {name for name in one if not name.startswith("decoder.bottleneck.")}
    for name in two.keys() - fresh:
        assert torch.equal(one[name], two[name]), name


def test_the_third_stage_begins_with_all_weights_of_the_second(lab, bottleneck):
    options = ["--start.checkpoint", str(bottleneck), "--model.init_args.optimizer.init_args.lr", "0.0"]
    begun, two = weights(lab.fit("whole", *options)), weights(bottleneck)
    assert begun.keys() == two.keys()
    assert all(torch.equal(begun[name], two[name]) for name in two)


def test_a_resumed_run_needs_no_initial_checkpoint(bottleneck):
    before = weights(bottleneck)
    config = bottleneck.parents[1] / "config.yaml"
    main(["fit", "--config", str(config), "--ckpt_path", str(bottleneck), "--trainer.max_steps", "3"])
    assert torch.load(bottleneck, weights_only=True)["global_step"] == 3
    after = weights(bottleneck)
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert moved
    assert all(name.startswith("decoder.bottleneck.") for name in moved)  # frozen as before


@pytest.fixture
def model():
    return nn.ModuleDict({"encoder": nn.Linear(2, 3), "decoder": nn.Linear(3, 4)})


def test_fresh_modules_may_differ_and_others_may_not(model):
    own = model["decoder"].weight.detach().clone()
    theirs = {
        "encoder.weight": torch.ones(3, 2),
        "encoder.bias": torch.zeros(3),
        "decoder.other": torch.ones(1),
    }
    fill(model, theirs, ["decoder"], "a.ckpt")
    assert torch.equal(model["encoder"].weight, torch.ones(3, 2))
    assert torch.equal(model["decoder"].weight, own)
    with pytest.raises(ValueError, match=r"a.ckpt differs from this model in 3 weights, such as decoder.bias"):
        fill(model, theirs, [], "a.ckpt")
    with pytest.raises(ValueError, match=r"differs from this model in 1 weights, such as encoder.bias"):
        fill(model, theirs | {"encoder.bias": torch.zeros(4)}, ["decoder"], "a.ckpt")


def test_what_makes_no_sense_is_refused(model):
    with pytest.raises(ValueError, match=r"start.freeze would freeze every weight"):
        InitFromCheckpoint(freeze=True)
    with pytest.raises(ValueError, match=r"start.fresh: the model has no weights in 'decode'"):
        InitFromCheckpoint(fresh=["decode"]).setup(None, model, "fit")
    with pytest.raises(ValueError, match=r"checkpoint not found: nowhere.ckpt"):
        InitFromCheckpoint("nowhere.ckpt").setup(None, model, "fit")
    InitFromCheckpoint("nowhere.ckpt").setup(None, model, "test")


def test_frozen_is_all_but_the_fresh(model):
    InitFromCheckpoint(fresh=["decoder"], freeze=True).setup(None, model, "fit")
    assert [name for name, p in model.named_parameters() if p.requires_grad] == [
        "decoder.weight",
        "decoder.bias",
    ]

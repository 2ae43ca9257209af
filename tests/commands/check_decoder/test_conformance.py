"""The suite passes our own decoders and names the fault of broken ones, by the right check and no other."""

from functools import cache
from importlib.util import find_spec

import pytest
import torch
from discovery import discover
from reference import broken_decoders as broken
from torch import nn

import segbench.decoders
from segbench.commands.check_decoder import graphs
from segbench.commands.check_decoder.fixtures import prepare
from segbench.commands.check_decoder.suite import CHECKS, choose, examine
from segbench.decoders.base import Decoder
from segbench.necks.base import Neck
from segbench.types import FeatureInfo, Features

DECODERS = discover(segbench.decoders, Decoder)
SLOW = ("onnx", "ddp")  # the one traces for seconds, the other starts two interpreters
QUICK = [name for name in CHECKS if name not in SLOW]
subject = cache(prepare)


def results(factory, names):
    return {result.check: result for result in examine(subject(factory), names)}


def test_our_decoders_were_found():
    assert {cls.__name__ for cls in DECODERS} >= {"LinearDecoder"}


@pytest.mark.parametrize("cls", DECODERS)
@pytest.mark.parametrize(
    "check", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in CHECKS]
)
def test_our_decoders_conform(cls, check):
    (result,) = examine(subject(cls), [check])
    assert result.outcome != "failed", result.message
    if result.outcome == "skipped":
        assert check in {"patch-8", "patch-14", "onnx"}  # refused, or without the packages
        pytest.skip(result.message)


@pytest.mark.parametrize(
    ("cls", "fault"),
    [
        (broken.UnusedParameter, {"gradients": "auxiliary.weight, auxiliary.bias"}),
        (broken.DetachedEncoder, {"gradients": "no gradient reaches the encoder"}),
        (
            broken.FixedSize,
            {"non-square": "padded image 64×128: forward raises RuntimeError", "odd-size": "80×112"},
        ),
        (broken.FixedOutput, {"non-square": "4×4 cells, which are not square", "odd-size": "4×4 cells"}),
        (broken.PaddedGrid, {"odd-size": "crop what was padded"}),
        (broken.BatchLeak, {"batch": "with the other images of its batch"}),
        (broken.LeakInTraining, {"batch": "in training logits of an image change by"}),
        (broken.LeakToTheSecond, {"batch": "in training logits of an image change by"}),
        (broken.LeakWithoutGradient, {"batch": "in training logits of an image change by"}),
        (broken.LeakBesideBatchNorm, {"batch": "in training logits of an image change by"}),
        (broken.NanInBf16, {"bf16": "nan or infinity in bfloat16, in the output of logits"}),
        (broken.StateOutside, {"save-load": "after a strict load the result is another"}),
        (broken.MadeInForward, {"save-load": "forward made or removed mix.bias, mix.weight"}),
        (broken.RandomInEvaluation, {"save-load": "twice the same features give two results"}),
        (broken.NanGradient, {"bf16": "in the gradient of head.weight"}),
        (broken.GraphBreak, {"compile": "no single graph"}),
        (broken.AnotherWhenTraced, {"compile": "logits differ from eager by"}),
        (broken.DetachedWhenTraced, {"compile": "head.bias has a gradient either eager or compiled"}),
        (broken.SlowerWhenTraced, {"compile": "compiled, the gradient of head.weight is off by"}),
        (broken.SameEverywhere, {"overfit": "on the batch trained on"}),
        (broken.TwoTypes, {"patch-16": "training and evaluation return different outputs"}),
    ],
)
def test_a_fault_is_named_by_its_check(cls, fault):
    found = results(cls, QUICK)
    failed = {name: result.message for name, result in found.items() if result.outcome == "failed"}
    for name, words in fault.items():
        assert words in failed[name]
        assert "\n" not in failed[name]
        assert "; " in failed[name]  # and the remedy behind it
    also = {
        broken.PaddedGrid: {"non-square"},  # of five cells at patch 14
        broken.LeakInTraining: {"overfit"},  # evaluation is not what was trained
        broken.LeakWithoutGradient: {"overfit"},
        broken.LeakBesideBatchNorm: {"overfit"},
        broken.NanGradient: {"overfit"},
        broken.MadeInForward: {"compile"},  # a graph makes no layers
        broken.RandomInEvaluation: {"batch", "compile"},  # neither can compare what is random
        broken.TwoTypes: {"patch-8", "patch-14", "non-square", "odd-size"},  # all look at both modes
    }
    assert failed.keys() - fault.keys() <= also.get(cls, set())


@pytest.mark.slow
def test_two_processes_find_the_unused_parameter():
    (result,) = examine(subject(broken.UnusedParameter), ["ddp"])
    assert result.outcome == "failed"
    assert "auxiliary.weight, auxiliary.bias got no gradient" in result.message


@pytest.mark.slow
@pytest.mark.skipif(find_spec("onnx") is None, reason="without onnx")
def test_onnx_takes_other_sizes_where_the_decoder_does():
    assert results(broken.Sound, ["onnx"])["onnx"].message == "sizes free"
    fixed = results(broken.FixedSize, ["onnx"])["onnx"]
    assert fixed.outcome == "passed"
    assert fixed.message.startswith("at one size only: ")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("onnx") is None, reason="without onnx")
def test_an_onnx_graph_that_answers_differently_is_named():
    found = results(broken.AnotherWhenTraced, ["onnx"])["onnx"]
    assert found.outcome == "failed"
    assert "logits differ from eager by" in found.message


def test_without_the_packages_onnx_is_skipped_and_not_passed(monkeypatch):
    monkeypatch.setattr(graphs, "ONNX_PACKAGES", ("no_such_package",))
    (result,) = examine(subject(broken.Sound), ["onnx"])
    assert result.outcome == "skipped"
    assert "no_such_package: pip install 'segbench[onnx]'" in result.message


def test_batch_norm_passes_with_a_remark():
    found = results(broken.Normalised, QUICK)
    assert {result.outcome for result in found.values()} == {"passed"}
    assert found["batch"].message == "in training images share the statistics of norm"


def test_random_numbers_of_the_caller_stay():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    results(broken.Sound, ["gradients", "save-load"])
    torch.testing.assert_close(torch.rand(3), expected)


class Narrow(Neck):
    def __init__(self, info: FeatureInfo) -> None:
        super().__init__()
        self.info = FeatureInfo((32,), info.strides[-1:], info.grid)
        self.project = nn.Conv2d(info.channels[-1], 32, 1)

    def forward(self, features: Features) -> Features:
        return Features(features.image, (self.project(features.maps[-1]),))


def test_necks_give_a_decoder_what_it_wants():
    with pytest.raises(ValueError, match=r"refuses all features: 32 channels are needed, not 192.*--necks"):
        prepare(broken.RefusesPlainMaps)
    given = prepare(broken.RefusesPlainMaps, [Narrow])
    assert given.bed.arrangement == "vit_tiny_patch16_224 → 4 maps → Narrow"
    assert [result.outcome for result in examine(given, ["patch-16", "odd-size", "overfit"])] == ["passed"] * 3


def test_a_patch_size_that_is_refused_is_skipped_with_the_decoders_own_words():
    class OnlySixteen(broken.Sound):
        def __init__(self, info, num_classes):
            if info.strides[-1] != 16:
                raise ValueError(f"strides of 16 only, not {info.strides[-1]}")
            super().__init__(info, num_classes)

    found = list(examine(prepare(OnlySixteen), ["patch-16", "patch-14", "odd-size"]))
    assert [result.outcome for result in found] == ["passed", "skipped", "passed"]
    assert "strides of 16 only, not 14" in found[1].message


def test_checks_are_chosen_by_name():
    assert choose(only=["ddp", "batch"]) == ["batch", "ddp"]
    assert choose(skip=["ddp"]) == [name for name in CHECKS if name != "ddp"]
    with pytest.raises(ValueError, match="unknown check speed; choose among patch-16"):
        choose(only=["speed"])
    with pytest.raises(ValueError, match="leave no check"):
        choose(only=["ddp"], skip=["ddp"])

"""Soft IoU and Dice, which are made of the same sums."""

import pytest
import torch
import torch.nn.functional as F
from reference.slow_losses import slow_dice, slow_soft_iou

from segbench.functional import bands
from segbench.losses.dice import Dice
from segbench.losses.iou import SoftIoU
from segbench.types import Prediction

LOSSES = [
    (SoftIoU, slow_soft_iou, {}),
    (SoftIoU, slow_soft_iou, {"mass_weighting": False, "epsilon": 0.1}),
    (Dice, slow_dice, {}),
    (Dice, slow_dice, {"epsilon": 0.0}),
]


def problem():
    logits = 2 * torch.randn(3, 4, 3, 4, dtype=torch.float64)
    label = torch.randint(0, 3, (3, 12, 16), dtype=torch.uint8)  # class 3 does not occur
    label[0, 5:] = 255
    label[2] = 255  # no label at all
    return logits, label


@pytest.mark.parametrize(("cls", "slow", "options"), LOSSES)
def test_equals_the_loop_in_value_and_gradient(cls, slow, options, monkeypatch):
    monkeypatch.setattr(bands, "BAND_BYTES_CPU", 8000)
    logits, label = problem()
    loss = cls(4, 255, **options)
    value = loss(Prediction(logits.requires_grad_()), label)
    assert value.item() == pytest.approx(slow(logits.detach().numpy(), label.numpy(), 255, **options), rel=1e-6)

    value.backward()
    for at in ((0, 1, 0, 2), (1, 3, 2, 1), (0, 0, 1, 1)):
        ends = []
        for step in (-1e-4, 1e-4):
            moved = logits.detach().clone()
            moved[at] += step
            ends.append(slow(moved.numpy(), label.numpy(), 255, **options))
        assert logits.grad[at].item() == pytest.approx((ends[1] - ends[0]) / 2e-4, rel=1e-4, abs=1e-9)
    assert logits.grad[2].abs().sum() == 0


@pytest.mark.parametrize("cls", [SoftIoU, Dice])
def test_right_is_free_and_wrong_costs_nearly_1(cls):
    label = torch.randint(0, 3, (2, 32, 32))
    right = 50 * F.one_hot(label, 3).movedim(-1, 1).float()
    loss = cls(3, 255)
    assert loss(Prediction(right), label).item() == pytest.approx(0, abs=1e-6)
    assert loss(Prediction(right.roll(1, dims=1)), label).item() == pytest.approx(1, abs=0.01)
    assert 0.4 < loss(Prediction(torch.zeros_like(right)), label) < 0.9


def test_an_absent_label_costs_nothing_by_itself_once_weighted_by_mass():
    label = torch.zeros(1, 8, 8, dtype=torch.int64)
    sure = torch.tensor([6.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 8, 8)  # a little mass on absent labels
    weighted, plain = (
        SoftIoU(3, 255, mass_weighting=m, epsilon=1e-3)(Prediction(sure), label) for m in (True, False)
    )
    assert weighted < 0.01
    assert plain > 0.6  # the article's complaint: two of three labels count as missed


def test_large_labels_weigh_more():
    label = torch.zeros(1, 8, 8, dtype=torch.int64)
    label[:, :2] = 1
    right = 20 * F.one_hot(label, 2).movedim(-1, 1).float()
    blind = [right.clone() for _ in range(2)]
    for k in range(2):  # undecided inside label k
        blind[k] *= (label != k)[:, None]
    large, small = (SoftIoU(2, 255, epsilon=1e-6)(Prediction(b), label) for b in blind)
    assert large > 1.5 * small


@pytest.mark.parametrize("cls", [SoftIoU, Dice])
def test_bf16(cls):
    logits, label = problem()
    exact, half = (cls(4, 255)(Prediction(x), label) for x in (logits, logits.bfloat16()))
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(exact.item(), rel=0.01)


def test_mistakes():
    with pytest.raises(ValueError, match="epsilon must be positive"):
        SoftIoU(3, 255, epsilon=0.0)
    with pytest.raises(ValueError, match="epsilon must not be negative"):
        Dice(3, 255, epsilon=-1.0)

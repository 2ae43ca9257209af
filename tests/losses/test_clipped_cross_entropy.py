import math

import pytest
import torch
import torch.nn.functional as F
from reference.slow_losses import slow_clipped_cross_entropy

from segbench.functional import bands
from segbench.losses.clipped_cross_entropy import ClippedCrossEntropy
from segbench.losses.cross_entropy import CrossEntropy
from segbench.types import Prediction

WEIGHTS = [1.0, 5.0, 0.5]


def problem(scale=3.0):
    logits = scale * torch.randn(2, 3, 3, 4, dtype=torch.float64)
    label = torch.randint(0, 3, (2, 12, 16), dtype=torch.uint8)
    label[:, 4:9, 3:10] = 1
    label[torch.rand(label.shape) < 0.1] = 255
    return logits.requires_grad_(), label


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"class_weights": WEIGHTS},
        {"clip": 1.0},
        {"boundary_weight": 4.0},
        {"boundary_weight": 0.0},
        {"class_weights": WEIGHTS, "clip": 0.7, "boundary_weight": 3.0},
    ],
)
def test_equals_the_loop(options, monkeypatch):
    monkeypatch.setattr(bands, "BAND_BYTES_CPU", 4000)  # several bands
    logits, label = problem()
    value = ClippedCrossEntropy(3, 255, **options)(Prediction(logits), label)
    expected = slow_clipped_cross_entropy(logits.detach().numpy(), label.numpy(), 255, **options)
    assert value.item() == pytest.approx(expected, rel=1e-6)


def test_gradient_is_torchs_below_the_ceiling_and_none_above():
    logits, label = problem()
    full = F.interpolate(logits, (12, 16), mode="bilinear")
    cost = F.cross_entropy(full, label.long(), ignore_index=255, reduction="none")
    expected = cost.where(cost < 2, 2.0).where(label != 255, 0.0).sum() / (label != 255).sum()
    ours = ClippedCrossEntropy(3, 255, clip=2.0)(Prediction(logits), label)
    assert (cost > 2).any()
    torch.testing.assert_close(*(torch.autograd.grad(value, logits)[0] for value in (ours, expected)))


def test_without_its_options_it_is_plain_cross_entropy():
    logits, label = problem()
    prediction = Prediction(logits)
    ours, plain = (
        loss(3, 255, class_weights=WEIGHTS)(prediction, label) for loss in (ClippedCrossEntropy, CrossEntropy)
    )
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(*(torch.autograd.grad(value, logits)[0] for value in (ours, plain)))


def test_one_hopeless_pixel_costs_no_more_than_the_ceiling():
    logits = torch.tensor([[[[1e4, -1e4]], [[-1e4, 1e4]]]], requires_grad=True)  # (1, 2, 1, 2)
    label = torch.tensor([[[0, 0]]])
    value = ClippedCrossEntropy(2, 255)(Prediction(logits), label)
    assert value.item() == pytest.approx(-math.log(1e-7) / 2)
    value.backward()
    assert logits.grad.isfinite().all()


def test_bf16_logits():
    logits, label = problem(scale=1.0)
    exact = ClippedCrossEntropy(3, 255)(Prediction(logits), label)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = ClippedCrossEntropy(3, 255)(Prediction(logits.bfloat16()), label)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(exact.item(), rel=0.01)


def test_mistakes():
    for options, message in (
        ({"class_weights": [1.0]}, "class_weights: 1 given for 3 classes"),
        ({"clip": 0.0}, "clip must be positive"),
        ({"boundary_weight": -1.0}, "boundary_weight must not be negative"),
    ):
        with pytest.raises(ValueError, match=message):
            ClippedCrossEntropy(3, 255, **options)
    with pytest.raises(ValueError, match="label 7 is neither"):
        ClippedCrossEntropy(3, 255)(Prediction(torch.zeros(1, 3, 2, 2)), torch.full((1, 4, 4), 7))
    assert list(ClippedCrossEntropy(2, 255, class_weights=[1.0, 2.0]).state_dict()) == []

import pytest
import torch
from reference.slow_losses import slow_gradient_sparsity

from segbench.functional import bands
from segbench.losses.gradient_sparsity import GradientSparsity
from segbench.types import Prediction

OPTIONS = {"p": 0.5, "epsilon": 0.01, "cutoff": 0.04}


@pytest.mark.parametrize("band_bytes", [1, 900, 1 << 20])
@pytest.mark.parametrize("options", [OPTIONS, {"p": 0.3, "epsilon": 0.1, "cutoff": 0.2}])
def test_equals_the_loop_in_value_and_gradient(options, band_bytes, monkeypatch):
    monkeypatch.setattr(bands, "BAND_BYTES_CPU", band_bytes)
    logits = torch.randn(2, 3, 7, 6, dtype=torch.float64, requires_grad=True)
    label = torch.zeros(2, 14, 18, dtype=torch.uint8)
    label[0, 3:9, 4:12] = 255  # some cells whole, some in part
    value = GradientSparsity(3, 255, **options)(Prediction(logits), label)
    expected = slow_gradient_sparsity(logits.detach().numpy(), label.numpy(), 255, **options)
    assert value.item() == pytest.approx(expected, rel=1e-6)

    value.backward()
    for at in ((0, 1, 0, 2), (1, 2, 6, 5), (1, 0, 3, 3)):
        ends = []
        for step in (-1e-5, 1e-5):
            moved = logits.detach().clone()
            moved[at] += step
            ends.append(slow_gradient_sparsity(moved.numpy(), label.numpy(), 255, **options))
        assert logits.grad[at].item() == pytest.approx((ends[1] - ends[0]) / 2e-5, rel=1e-3, abs=1e-9)


def ramp(steps):
    """Probabilities of class 0 that rise from 0.1 to 0.9 in a row of 12 cells, as a prediction."""
    p = torch.full((12,), 0.9)
    p[: 6 - steps // 2] = 0.1
    inside = torch.linspace(0.1, 0.9, steps + 1)[1:-1]
    p[6 - steps // 2 : 6 - steps // 2 + len(inside)] = inside
    return Prediction(torch.stack((p, 1 - p)).log()[None, :, None])


def test_one_big_jump_is_cheaper_than_many_little_ones_and_tiny_ones_are_free():
    label = torch.zeros(1, 1, 12, dtype=torch.uint8)
    loss = GradientSparsity(2, 255)
    jump, slope, gentle = (loss(ramp(steps), label) for steps in (1, 4, 8))
    assert 0 < jump < slope < gentle
    noise = Prediction(0.005 * torch.randn(1, 2, 5, 5))
    assert loss(noise, torch.zeros(1, 5, 5, dtype=torch.uint8)) == 0


def test_uniform_probabilities_have_a_finite_gradient():
    logits = torch.zeros(1, 3, 4, 4, requires_grad=True)
    GradientSparsity(3, 255, cutoff=0.0)(Prediction(logits), torch.zeros(1, 8, 8, dtype=torch.uint8)).backward()
    assert logits.grad.abs().sum() == 0


@pytest.mark.parametrize("grid", [(1, 1), (1, 4), (4, 1)])
def test_grids_without_neighbours(grid):
    logits = torch.randn(1, 3, *grid, requires_grad=True)
    GradientSparsity(3, 255)(Prediction(logits), torch.zeros(1, 8, 8, dtype=torch.uint8)).backward()
    assert logits.grad.isfinite().all()


def test_bf16():
    logits, label = torch.randn(1, 3, 5, 5), torch.zeros(1, 10, 10, dtype=torch.uint8)
    exact, half = (GradientSparsity(3, 255)(Prediction(x), label) for x in (logits, logits.bfloat16()))
    assert half.item() == pytest.approx(exact.item(), rel=0.02)


def test_mistakes():
    for options, message in (
        ({"p": 1.5}, "p must lie in"),
        ({"epsilon": 0.0}, "epsilon must be positive"),
        ({"cutoff": 2.0}, "no jump costs anything"),
    ):
        with pytest.raises(ValueError, match=message):
            GradientSparsity(3, 255, **options)

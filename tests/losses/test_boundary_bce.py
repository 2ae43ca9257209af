import pytest
import torch
import torch.nn.functional as F
from reference.slow_losses import slow_boundary_bce

from segbench.functional import bands
from segbench.functional.boundary import boundary_target
from segbench.losses.boundary import BoundaryBCE
from segbench.types import Prediction


def problem():
    boundary = 3 * torch.randn(2, 1, 3, 4, dtype=torch.float64)
    label = torch.zeros(2, 12, 16, dtype=torch.uint8)
    label[:, 3:8, 5:11] = 1
    label[0, 9:] = 255
    return torch.zeros(2, 2, 3, 4), boundary.requires_grad_(), label


@pytest.mark.parametrize("positive_weight", [1.0, 5.0, 20.0])
def test_equals_the_loop(positive_weight, monkeypatch):
    monkeypatch.setattr(bands, "BAND_BYTES_CPU", 1000)
    logits, boundary, label = problem()
    value = BoundaryBCE(2, 255, positive_weight=positive_weight)(Prediction(logits, boundary), label)
    expected = slow_boundary_bce(boundary.detach().numpy(), label.numpy(), 255, positive_weight)
    assert value.item() == pytest.approx(expected, rel=1e-6)


def test_gradient_is_torchs():
    logits, boundary, label = problem()
    target, defined = boundary_target(label, 255)
    full = F.interpolate(boundary, (12, 16), mode="bilinear")[:, 0]
    plain = F.binary_cross_entropy_with_logits(
        full[defined], target[defined].double(), pos_weight=torch.tensor(5.0)
    )
    ours = BoundaryBCE(2, 255)(Prediction(logits, boundary), label)
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(*(torch.autograd.grad(value, boundary)[0] for value in (ours, plain)))


def test_the_worst_prediction_still_learns():
    logits, boundary, label = problem()
    sure = torch.full_like(boundary, -1e4).requires_grad_()  # sure that there is no boundary, where there is
    value = BoundaryBCE(2, 255)(Prediction(logits, sure), label)
    value.backward()
    assert value.isfinite()
    assert sure.grad.min() < 0


def test_what_no_neighbour_is_known_of_changes_nothing():
    logits, boundary, label = problem()
    label[:, 5:] = 255  # row 4 then has no target either
    other = boundary.detach().clone()
    other[:, :, 2:] += 100  # of which rows from 6 on are made
    values = [BoundaryBCE(2, 255)(Prediction(logits, b), label) for b in (boundary.detach(), other)]
    assert values[0] == values[1] > 0


def test_bf16():
    logits, boundary, label = problem()
    exact, half = (BoundaryBCE(2, 255)(Prediction(logits, b), label) for b in (boundary, boundary.bfloat16()))
    assert half.item() == pytest.approx(exact.item(), rel=0.01)


def test_mistakes():
    with pytest.raises(ValueError, match=r"needs a decoder with a boundary head, such as .*AttentionUNet"):
        BoundaryBCE(2, 255)(Prediction(torch.zeros(1, 2, 3, 3)), torch.zeros(1, 6, 6, dtype=torch.uint8))
    with pytest.raises(ValueError, match="positive_weight must be positive"):
        BoundaryBCE(2, 255, positive_weight=0.0)

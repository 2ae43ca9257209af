"""Mean shift against a literal re-statement."""

import pytest
import torch

from segbench.necks import mean_shift
from segbench.necks.mean_shift import MeanShift
from segbench.types import FeatureInfo, Features

INFO = FeatureInfo((24, 32), (16, 16), (5, 7))


def literal(neck, feature_map):
    """Token by token, as the thesis writes it: R = x E, S = row softmax of R Rᵀ/√d, x ← S x."""
    (x,) = feature_map.flatten(2).transpose(1, 2).double()
    weight, bias = neck.project.weight.double(), neck.project.bias
    for _ in range(neck.iterations):
        r = x @ weight.T + (0 if bias is None else bias.double())
        moved = []
        for token in r:
            kernel = torch.exp((r @ token) / weight.shape[0] ** 0.5)
            moved.append((kernel[:, None] * x).sum(0) / kernel.sum())
        x = torch.stack(moved)
    return x.T.reshape(1, -1, *feature_map.shape[-2:]).float()


@pytest.mark.parametrize("many_tokens", [mean_shift.MANY_TOKENS, 0])  # 0: widths are padded to each other
@pytest.mark.parametrize("dim", [8, 32, 50])
@pytest.mark.parametrize("iterations", [0, 1, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_equals_the_literal_shift(monkeypatch, many_tokens, dim, iterations, bias):
    monkeypatch.setattr(mean_shift, "MANY_TOKENS", many_tokens)
    neck = MeanShift(INFO, iterations, dim, bias)
    torch.nn.init.normal_(neck.project.weight, std=0.3)
    shallow, deep = torch.randn(1, 24, 5, 7), torch.randn(1, 32, 5, 7)
    output = neck(Features(torch.zeros(1, 3, 80, 112), (shallow, deep)))
    assert output.maps[0] is shallow
    torch.testing.assert_close(output.maps[1], literal(neck, deep), rtol=1e-4, atol=1e-5)


def test_shifted_tokens_are_convex_combinations():
    neck = MeanShift(INFO, 2, 16)
    torch.nn.init.normal_(neck.project.weight)
    deep = torch.randn(1, 32, 5, 7)
    moved = neck(Features(torch.zeros(1, 3, 80, 112), (deep,))).maps[0]
    assert (moved.amax((2, 3)) <= deep.amax((2, 3)) + 1e-5).all()
    assert (moved.amin((2, 3)) >= deep.amin((2, 3)) - 1e-5).all()


def test_one_projection_is_shared_and_iterations_hold_no_weights():
    assert [tuple(p.shape) for p in MeanShift(INFO, 5, 8).parameters()] == [(8, 32), (8,)]
    assert [tuple(p.shape) for p in MeanShift(INFO, 5, 8, bias=False).parameters()] == [(8, 32)]
    normalized = MeanShift(INFO, 5, 8, normalize=True)
    assert [tuple(p.shape) for p in normalized.parameters()] == [(8, 32), (8,), (32,), (32,)]


def test_initialisation_is_the_authors():
    neck = MeanShift(FeatureInfo((192,), (16,), (32, 32)), dim=768)
    assert neck.project.weight.std().item() == pytest.approx(0.02, rel=0.03)
    assert not neck.project.bias.any()


def test_normalize_follows_every_shift():
    neck = MeanShift(INFO, 2, 8, normalize=True)
    moved = neck(Features(torch.zeros(1, 3, 80, 112), (torch.randn(1, 32, 5, 7),))).maps[0]
    torch.testing.assert_close(moved.mean(1), torch.zeros(1, 5, 7), atol=1e-5, rtol=0)


def test_mistakes():
    with pytest.raises(ValueError, match="dim ≥ 1 and iterations ≥ 0; got 0 and 1"):
        MeanShift(INFO, dim=0)
    with pytest.raises(ValueError, match="got 8 and -1"):
        MeanShift(INFO, -1, 8)

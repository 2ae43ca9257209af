"""Mean shift against a literal re-statement."""

import pytest
import torch

from segbench.kernels import mean_shift
from segbench.necks.mean_shift import MeanShift, symmetric_mean_shift
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


@pytest.mark.parametrize("many_tokens", [mean_shift.MANY_TOKENS, 0])  # 0: by tiles
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


def test_temperature_divides_similarities():
    deep = Features(torch.zeros(1, 3, 80, 112), (torch.randn(1, 32, 5, 7),))
    plain, warm = MeanShift(INFO, 1, 16, bias=False), MeanShift(INFO, 1, 16, bias=False, temperature=4.0)
    torch.nn.init.normal_(plain.project.weight, std=0.3)
    warm.project.weight.data = 2 * plain.project.weight.data  # R Rᵀ is four times as large
    torch.testing.assert_close(warm(deep).maps[0], plain(deep).maps[0])
    hot = MeanShift(INFO, 1, 16, temperature=1e6)
    mean = deep.maps[0].mean((2, 3), keepdim=True).expand(-1, -1, 5, 7)
    torch.testing.assert_close(hot(deep).maps[0], mean, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_symmetric_weights_are_symmetric_and_sum_to_one_in_rows_and_columns(temperature):
    torch.manual_seed(0)
    projected = torch.randn(2, 35, 16)
    weights = symmetric_mean_shift(torch.eye(35).expand(2, -1, -1), projected, temperature)  # S I = S
    torch.testing.assert_close(weights, weights.transpose(1, 2))
    for axis in (1, 2):
        torch.testing.assert_close(weights.sum(axis), torch.ones(2, 35), atol=2e-3, rtol=0)
    # What symmetric scaling leaves as it is: S_ij S_jk S_ki / (S_ii S_jj S_kk) does not depend on the scales.
    kernel = torch.exp(projected @ projected.transpose(1, 2) / 4 / temperature)
    for i, j in [(0, 5), (7, 30)]:
        for s in (weights, kernel):
            s = s.double()
            ratio = s[0, i, j] * s[0, j, i] / (s[0, i, i] * s[0, j, j])
            exact = kernel.double()[0, i, j] ** 2 / (kernel.double()[0, i, i] * kernel.double()[0, j, j])
            torch.testing.assert_close(ratio, exact, rtol=1e-3, atol=0)


def test_the_symmetric_kernel_is_what_the_neck_uses():
    neck = MeanShift(INFO, 2, 16, kernel="symmetric")
    torch.nn.init.normal_(neck.project.weight, std=0.3)
    deep = torch.randn(1, 32, 5, 7)
    x = deep.flatten(2).transpose(1, 2)
    for _ in range(2):
        x = symmetric_mean_shift(x, neck.project(x))
    moved = neck(Features(torch.zeros(1, 3, 80, 112), (deep,))).maps[0]
    torch.testing.assert_close(moved.flatten(2).transpose(1, 2), x)
    # Columns that sum to one keep the mean of all tokens, which row softmax does not.
    torch.testing.assert_close(moved.mean((2, 3)), deep.mean((2, 3)), atol=1e-3, rtol=0)


@pytest.mark.parametrize("options", [{"kernel": "symmetric"}, {"temperature": 0.5, "normalize": True}])
def test_extras_have_gradients_and_survive_bf16(options):
    neck = MeanShift(INFO, 2, 16, **options)
    deep = torch.randn(1, 32, 5, 7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        moved = neck(Features(torch.zeros(1, 3, 80, 112), (deep,))).maps[0]
    assert moved.isfinite().all()
    (moved.float() * torch.randn(1, 32, 5, 7)).sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in neck.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 0}, "dim ≥ 1, iterations ≥ 0 and temperature > 0; got 0, 1 and 1.0"),
        ({"iterations": -1}, "got 192, -1 and 1.0"),
        ({"temperature": 0.0}, "got 192, 1 and 0.0"),
        ({"temperature": float("inf")}, "got 192, 1 and inf"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(ValueError, match=message):
        MeanShift(INFO, **options)

"""Mean shift by tiles against the written-out formula in float64."""

import pytest
import torch
from torch import nn

from segbench.kernels import mean_shift as kernel
from segbench.kernels.mean_shift import mean_shift

# (N, C, d): whole tiles and parts of them, values wider and narrower than keys, one token more than a tile.
SHAPES = [(40, 6, 4), (33, 5, 5), (17, 3, 9), (16, 4, 2), (5, 1, 1)]


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch):
    monkeypatch.setattr(kernel, "MANY_TOKENS", 0)
    monkeypatch.setattr(kernel, "TILE", (8, 16))


def written_out(tokens, projected, temperature=1.0):
    similarity = projected @ projected.transpose(1, 2) / temperature / projected.shape[-1] ** 0.5
    return similarity.softmax(-1) @ tokens


def leaves(shape, dtype=torch.float64, spread=1.0):
    count, width, dim = shape
    tokens = torch.randn(2, count, width, dtype=dtype)
    # Norms of all sizes: a factor of the kernel that is left out would otherwise cancel almost.
    projected = spread * torch.randn(2, count, dim, dtype=dtype) * torch.rand(2, count, 1, dtype=dtype)
    return tokens.requires_grad_(), projected.requires_grad_()


def value_and_gradients(function, tokens, projected, *options):
    grad = torch.linspace(-1, 1, tokens.numel(), dtype=tokens.dtype).sin().view_as(tokens)
    moved = function(tokens, projected, *options)
    return moved.detach(), *torch.autograd.grad(moved, (tokens, projected), grad)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("spread", [1.0, 4.0, 60.0])  # with 60, weights leave the range that tiles can hold
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_values_and_gradients_are_those_of_the_formula(shape, spread, temperature):
    tokens, projected = leaves(shape, spread=spread)
    expected = value_and_gradients(written_out, tokens, projected, temperature)
    torch.testing.assert_close(value_and_gradients(mean_shift, tokens, projected, temperature), expected)
    if spread == 60:  # softmax saturates: in float32 gradients are rounding, in the formula as well
        return
    single = [leaf.detach().float().requires_grad_() for leaf in (tokens, projected)]
    rounded = value_and_gradients(written_out, *single, temperature)
    for got, plain, exact in zip(
        value_and_gradients(mean_shift, *single, temperature), rounded, expected, strict=True
    ):
        assert (got - exact).abs().max() <= 4 * (plain - exact).abs().max() + 2e-6 * exact.abs().max()


@torch.no_grad()
def test_both_ways_were_taken():
    assert kernel._factors(leaves(SHAPES[0], spread=1.0)[1][0], 0.5)[1] is not None
    assert kernel._factors(leaves(SHAPES[0], spread=60.0)[1][0], 0.5)[1] is None


def test_similarities_far_apart_stay_finite_up_to_the_limit():
    """Norms whose factors `exp(|r|²/2)` differ by all that tiles admit, and a little more."""
    for spread in (0.98 * kernel.WIDEST_SPREAD, 1.02 * kernel.WIDEST_SPREAD):
        projected = torch.zeros(1, 40, 4)
        projected[0, ::2, 0] = (2 * spread * 2) ** 0.5  # |R|²/2√d = spread
        projected[0, 1::2, 1] = torch.linspace(0, 1, 20)
        leaf = projected.requires_grad_()
        tokens = torch.randn(1, 40, 3, requires_grad=True)
        expected = value_and_gradients(
            written_out, tokens.detach().double().requires_grad_(), leaf.detach().double().requires_grad_()
        )
        for got, exact in zip(value_and_gradients(mean_shift, tokens, leaf), expected, strict=True):
            torch.testing.assert_close(got, exact.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spread", [1.0, 60.0])
def test_gradients_by_finite_differences(spread):
    tokens, projected = leaves((19, 3, 2), spread=spread)
    assert torch.autograd.gradcheck(mean_shift, (tokens, projected), fast_mode=True)


def test_equal_tokens_stay_where_they_are():
    tokens, projected = torch.ones(1, 40, 3), torch.full((1, 40, 2), 5.0)
    torch.testing.assert_close(mean_shift(tokens, projected), tokens)


def test_nothing_of_the_size_of_the_matrix_is_held(monkeypatch):
    monkeypatch.setattr(kernel, "TILE", (64, 128))
    tokens, projected = leaves((600, 4, 3), torch.float32)
    largest = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
            result = operation(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                largest.append(result.untyped_storage().nbytes())
            return result

    # Below the operator, where its own tensors are made.
    with Watch():
        moved, mass = kernel._moved._init_fn(tokens.detach(), projected.detach(), 0.5)
        kernel._gradients._init_fn(
            torch.ones_like(moved), tokens.detach(), projected.detach(), moved, mass, 0.5
        )
    assert max(largest) < 0.1 * 4 * 600**2


def test_a_second_derivative_is_refused():
    tokens, projected = leaves(SHAPES[0])
    with pytest.raises(ValueError, match="no second derivative; take smaller images"):
        torch.autograd.grad(mean_shift(tokens, projected).sum(), projected, create_graph=True)


def test_compiles_as_one_graph_with_gradients():
    shift = nn.Module()
    shift.forward = mean_shift
    shift.compile(fullgraph=True, backend="aot_eager")
    tokens, projected = leaves(SHAPES[0])
    expected = value_and_gradients(written_out, tokens, projected)
    torch.testing.assert_close(value_and_gradients(shift, tokens, projected), expected)


# The check looks at the gradient of its own copies.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_the_operator_says_the_truth_about_itself():
    tokens, projected = leaves((20, 4, 3))
    torch.library.opcheck(kernel._moved, (tokens, projected, 0.5))


def test_half_precision_goes_by_torch():
    tokens, projected = leaves(SHAPES[0], torch.float32)
    expected = value_and_gradients(written_out, tokens, projected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = mean_shift(tokens, projected.bfloat16())
        full = value_and_gradients(mean_shift, tokens, projected)  # no product of the kernel is rounded
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected[0], rtol=0.05, atol=0.05)
    torch.testing.assert_close(full, expected, rtol=1e-4, atol=1e-5)


def test_an_exported_graph_holds_no_operation_of_ours():
    shift = nn.Module()
    shift.forward = mean_shift
    graph = torch.export.export(shift, leaves(SHAPES[0], torch.float32)).graph
    assert not [node for node in graph.nodes if "segbench" in str(node.target)]

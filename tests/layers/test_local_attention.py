"""Local attention against cell-by-cell loops, at borders and at sizes that no block divides."""

import pytest
import torch
from reference.slow_local_attention import slow_local_attention

from segbench.layers.local_attention import LocalAttention, local_attention


@pytest.mark.parametrize(
    ("block_size", "grid"),
    [(2, (4, 8)), (2, (5, 7)), (2, (1, 1)), (2, (9, 2)), (4, (8, 8)), (4, (5, 9)), (4, (13, 3))],
)
def test_values_and_gradients_are_those_of_the_loops(block_size, grid):
    heads, dim, side = 2, 3, 4 * block_size - 1
    shape = (2 if grid == (5, 7) else 1, *grid, heads, dim)
    leaves = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    leaves.append(torch.rand(heads, side, side, dtype=torch.float64, requires_grad=True))
    got = local_attention(*leaves, block_size)
    expected = slow_local_attention(*leaves, block_size)
    torch.testing.assert_close(got, expected)
    seed = torch.randn_like(got)
    torch.testing.assert_close(
        torch.autograd.grad(got, leaves, seed), torch.autograd.grad(expected, leaves, seed)
    )


def test_the_field_of_view_is_the_nine_blocks():
    key = torch.zeros(1, 8, 8, 1, 1)
    penalty = torch.zeros(1, 7, 7)
    for y, x, rows, columns in [(2, 2, (0, 6), (0, 6)), (3, 4, (0, 6), (2, 8)), (7, 0, (4, 8), (0, 4))]:
        value = torch.zeros(1, 8, 8, 1, 1, requires_grad=True)
        local_attention(key, key, value, penalty, 2)[0, y, x].sum().backward()
        seen = torch.zeros(8, 8)
        seen[slice(*rows), slice(*columns)] = 1
        torch.testing.assert_close(value.grad[0, :, :, 0, 0], seen / seen.sum())


@pytest.mark.parametrize("block_size", [2, 4])
def test_penalty_starts_as_a_well_around_the_cell_and_the_output_near_zero(block_size):
    layer = LocalAttention(6, 8, num_heads=4, block_size=block_size)
    centre = 2 * block_size - 1
    assert layer.penalty.shape == (4, 2 * centre + 1, 2 * centre + 1)
    assert layer.penalty[0, centre, centre] == 0
    assert layer.penalty[3, centre + 1, centre - 2].item() == (1 + 4) / 16
    assert layer.proj.bias.tolist() == pytest.approx([1e-4] * 8)
    assert layer.qkv.bias.tolist() == pytest.approx([0.01] * 24)
    assert layer(torch.randn(2, 6, 5, 3)).abs().max() < 0.05


def test_layer_is_projections_around_the_function():
    layer = LocalAttention(6, 8, num_heads=4).double()
    x = torch.randn(1, 6, 3, 5, dtype=torch.float64)
    tokens = x.permute(0, 2, 3, 1)
    query, key, value = (
        (tokens @ weight.T + bias).view(1, 3, 5, 4, 2)
        for weight, bias in zip(layer.qkv.weight.split(8), layer.qkv.bias.split(8), strict=True)
    )
    mixed = slow_local_attention(query, key, value, layer.penalty, 2).flatten(3)
    expected = (mixed @ layer.proj.weight.T + layer.proj.bias).permute(0, 3, 1, 2)
    torch.testing.assert_close(layer(x), expected)


def test_half_precision_is_near_and_finite():
    layer = LocalAttention(16, 16)
    x = torch.randn(1, 16, 7, 9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = layer(x)
    half.float().square().sum().backward()
    torch.testing.assert_close(half.float(), layer(x), rtol=0.1, atol=2e-3)
    assert all(p.grad.isfinite().all() for p in layer.parameters())


def test_compiles_as_one_graph():
    layer = LocalAttention(8, 8)
    x = torch.randn(1, 8, 5, 6)
    eager = layer(x)
    layer.compile(fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(layer(x), eager)


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="10 channels do not divide into 4 heads"):
        LocalAttention(8, 10)

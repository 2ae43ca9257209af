"""Attention in C against the formula written out in float64."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from segbench.kernels import attention as kernel
from segbench.kernels import native
from segbench.kernels.attention import attention
from segbench.kernels.attention import c_kernel as native_attention

pytestmark = pytest.mark.skipif(
    not (native.available() and native_attention.is_fast()), reason="no C compiler, or neither AVX2 nor AVX-512"
)


@pytest.fixture(autouse=True)
def _few_tokens_too(monkeypatch):
    monkeypatch.delenv("SEGBENCH_KERNELS", raising=False)
    monkeypatch.setattr(kernel, "LEAST_TOKENS", 1)
    monkeypatch.setattr(kernel, "LEAST_TOKENS_WITH_DROPOUT", 1)


@pytest.fixture
def _torchs_is_out_of_reach(monkeypatch):
    def fail(*_, **__):
        raise AssertionError("torch's attention was called")

    monkeypatch.setattr(F, "scaled_dot_product_attention", fail)


def heads(batch, count, length, width, seed=0, spread=1.0):
    """Queries, keys and values as timm cuts them out of one tensor."""
    generator = torch.Generator().manual_seed(seed)
    packed = spread * torch.randn(batch, length, 3, count, width, generator=generator)
    return packed.requires_grad_(), packed.permute(2, 0, 3, 1, 4).unbind(0)


def written_out(query, key, value, scale=None, mask=1.0):
    logits = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
    return (logits.softmax(-1) * mask) @ value


def exact_leaves(tensors):
    return [x.detach().double().requires_grad_() for x in tensors]


def mask_of(query, key, share, seed):
    """Which weights are kept: they come out where values are an identity, in pieces as wide as a head."""
    pieces, (_, _, length, width) = [], query.shape
    for first in range(0, length, width):
        value = torch.eye(length)[:, first : first + width].expand(*query.shape[:2], -1, -1)
        torch.manual_seed(seed)
        pieces.append(attention(query, key, F.pad(value, (0, width - value.shape[-1])), share))
    return torch.cat(pieces, -1)[..., :length] != 0


def check(got, expected, rounded):
    """Errors may be a few times those of torch's own float32."""
    for ours, exact, theirs in zip(got, expected, rounded, strict=True):
        assert (ours - exact).abs().max() <= 4 * (theirs - exact).abs().max() + 2e-6 * exact.abs().max()


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 2),
    st.integers(1, 3),
    st.one_of(st.integers(1, 40), st.integers(90, 300)),
    st.integers(1, 128),
    st.sampled_from([None, 0.5]),
)
def test_values_and_gradients_are_those_of_the_formula(batch, count, length, width, scale):
    packed, _ = heads(batch, count, length, width)
    grad = torch.randn(batch, count, length, width, generator=torch.Generator().manual_seed(1))
    results = []
    for function in (lambda *x: attention(*x, scale=scale), lambda *x: written_out(*x, scale)):
        mixed = function(*packed.permute(2, 0, 3, 1, 4).unbind(0))
        results.append((mixed.detach(), *torch.autograd.grad(mixed, packed, grad)))
    exact = packed.detach().double().requires_grad_()
    mixed = written_out(*exact.permute(2, 0, 3, 1, 4).unbind(0), scale)
    check(results[0], (mixed.detach(), *torch.autograd.grad(mixed, exact, grad.double())), results[1])


@pytest.mark.usefixtures("_torchs_is_out_of_reach")
@pytest.mark.parametrize(("length", "width", "share"), [(60, 64, 0.1), (211, 40, 0.5), (97, 8, 0.1)])
def test_weights_dropped_are_the_same_ones_on_the_way_back(length, width, share):
    _, tensors = heads(2, 2, length, width)
    kept = mask_of(*tensors[:2], share, seed=3)
    grad = torch.randn(2, 2, length, width)
    torch.manual_seed(3)
    mixed = attention(*tensors, share)
    got = (mixed.detach(), *torch.autograd.grad(mixed, tensors, grad))
    results = []
    for leaves in (exact_leaves(tensors), [x.detach().requires_grad_() for x in tensors]):
        factor = kept.to(leaves[0].dtype) / (1 - round(share * 2**16) / 2**16)
        mixed = written_out(*leaves, mask=factor)
        results.append((mixed.detach(), *torch.autograd.grad(mixed, leaves, grad.to(mixed.dtype))))
    check(got, *results)


def test_weights_are_dropped_at_random_and_by_torchs_seed():
    _, tensors = heads(2, 3, 256, 64, spread=0.1)
    query, key, value = (x.detach() for x in tensors)
    kept = mask_of(query, key, 0.1, seed=5)
    dropped = (~kept).double()
    assert abs(dropped.mean() - 0.1) < 5 * (0.09 / dropped.numel()) ** 0.5
    for dim in (-1, -2):  # no row or column is special
        share = dropped.mean(dim)
        assert 0.7 < share.std() / (0.09 / 256) ** 0.5 < 1.3
    for others in (dropped.flip(0), dropped.roll(1, 1), dropped.roll(1, 2), dropped.roll(1, 3)):
        together = (dropped * others).mean()
        assert abs(together - 0.01) < 6 * (0.0099 / dropped.numel()) ** 0.5
    assert torch.equal(kept, mask_of(query, key, 0.1, seed=5))
    other = mask_of(query, key, 0.1, seed=6)
    assert abs((~kept & ~other).double().mean() - 0.01) < 6 * (0.0099 / dropped.numel()) ** 0.5
    torch.manual_seed(0)
    first, second = attention(query, key, value, 0.1), attention(query, key, value, 0.1)
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(first, attention(query, key, value, 0.1))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_number_of_threads_changes_nothing(dropout):
    packed, _ = heads(1, 3, 400, 24)
    threads, results = torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            torch.manual_seed(0)
            mixed = attention(*packed.permute(2, 0, 3, 1, 4).unbind(0), dropout)
            results.append((mixed, *torch.autograd.grad(mixed.square().sum(), packed)))
    finally:
        torch.set_num_threads(threads)
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


def test_logits_far_apart_and_nan():
    _, tensors = heads(1, 2, 130, 16)
    query, key, value = (x.detach().clone() for x in tensors)
    query *= 1e4 / (query @ key.transpose(-1, -2) / 4).abs().max()
    leaves = [x.requires_grad_() for x in (query, key, value)]
    exact = exact_leaves(leaves)
    mixed = attention(*leaves)
    torch.testing.assert_close(mixed.double(), written_out(*exact), rtol=1e-2, atol=1e-2)
    assert all(x.isfinite().all() for x in (mixed, *torch.autograd.grad(mixed.sum(), leaves)))

    query = query.detach().clone()
    query[0, 1, 7, 3] = torch.nan
    mixed = attention(query, key, value)
    assert mixed[0, 1, 7].isnan().all()
    assert mixed.isnan().any(-1).sum() == 1


def test_other_precisions_autocast_and_unlike_shapes_go_by_torch(monkeypatch):
    def fail(*_):
        raise AssertionError("the native kernel was called")

    _, (query, key, value) = heads(1, 2, 20, 8)
    expected = attention(query, key, value)
    monkeypatch.setattr(kernel, "_mixed", fail)
    with pytest.raises(AssertionError):
        attention(query, key, value)
    for dtype, tolerance in ((torch.float64, 1e-5), (torch.bfloat16, 0.05)):
        other = attention(query.to(dtype), key.to(dtype), value.to(dtype))
        torch.testing.assert_close(other.float(), expected, rtol=tolerance, atol=tolerance)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        attention(query, key, value)
    attention(query[:, :, :5], key, value)
    attention(query, key, value[..., :3])
    attention(query, key, value, dropout=1.0)
    for name in ("plain", "chunked"):
        monkeypatch.setenv("SEGBENCH_KERNELS", name)
        attention(query, key, value)
    monkeypatch.delenv("SEGBENCH_KERNELS")
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(native_attention, "is_fast", lambda: False)
        attention(query, key, value)
    monkeypatch.setattr(native, "available", lambda: False)
    torch.testing.assert_close(attention(query, key, value), expected)


@pytest.mark.skipif(torch.__version__ < "2.12", reason="compiled graphs of torch 2.11 use its own attention")
@pytest.mark.usefixtures("_torchs_is_out_of_reach")
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_compiled_checkpointed_and_in_inference_mode(dropout):
    packed, _ = heads(1, 2, 70, 16)

    def run(packed):
        return attention(*packed.permute(2, 0, 3, 1, 4).unbind(0), dropout)

    def outcome(function):
        torch.manual_seed(0)
        mixed = function(packed)
        return mixed.detach(), *torch.autograd.grad(mixed.square().sum(), packed)

    expected = outcome(run)
    module = nn.Module()
    module.forward = run
    module.compile(fullgraph=True, backend="aot_eager")
    for got in (outcome(lambda x: checkpoint(run, x, use_reentrant=False)), outcome(module)):
        torch.testing.assert_close(got, expected)
    torch.manual_seed(0)
    with torch.inference_mode():
        assert torch.equal(run(packed), expected[0])


def test_a_second_derivative_is_refused():
    packed, tensors = heads(1, 1, 20, 8)
    with pytest.raises(ValueError, match="no second derivative; set SEGBENCH_KERNELS=plain"):
        torch.autograd.grad(attention(*tensors).sum(), packed, create_graph=True)


def test_an_exported_graph_holds_no_operation_of_ours():
    module = nn.Module()
    module.forward = attention
    _, tensors = heads(1, 2, 20, 8)
    graph = torch.export.export(module, tuple(x.detach() for x in tensors)).graph
    assert not [node for node in graph.nodes if "segbench" in str(node.target)]


# The check looks at the gradient of its own copies.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_the_operator_says_the_truth_about_itself():
    _, tensors = heads(1, 2, 20, 8)
    leaves = [x.detach().requires_grad_() for x in tensors]
    torch.library.opcheck(kernel._mixed, (*leaves, 0.5, 0, None))
    torch.library.opcheck(kernel._mixed, (*leaves, 0.5, 6554, torch.tensor(3)))


def test_its_arithmetic_is_counted():
    _, tensors = heads(2, 3, 20, 8)
    with FlopCounterMode(display=False) as ours:
        attention(*tensors).sum().backward()
    assert ours.get_total_flops() == 7 * 2 * 2 * 3 * 20 * 20 * 8

import pytest
import torch

from segbench.layers.norm import LocalNorm, build_norm


def over(x, groups, dims):
    """Mean 0 and variance 1 over the named axes of `(B, groups, C / groups, h, w)`."""
    split = x.unflatten(1, (groups, -1))
    mean = split.mean(dims, keepdim=True)
    variance = (split - mean).square().mean(dims, keepdim=True)
    return ((split - mean) / (variance + 1e-5).sqrt()).flatten(1, 2)


@pytest.mark.parametrize(
    ("norm", "groups", "dims"),
    [
        ("group", 32, (2, 3, 4)),
        ("instance", 96, (2, 3, 4)),
        ("layer", 1, (2, 3, 4)),
        ("local", 1, (2,)),
        ("batch", 1, (0, 3, 4)),
    ],
)
def test_each_norm_pools_what_the_article_says(norm, groups, dims):
    x = torch.randn(2, 96, 3, 5) * 2 + 1
    module = build_norm(norm, 96)
    assert list(module.parameters()) == []
    torch.testing.assert_close(module(x), over(x, groups, dims), rtol=1e-4, atol=1e-5)
    assert len(list(build_norm(norm, 96, affine=True).parameters())) == 2


@pytest.mark.parametrize(
    ("channels", "groups"), [(96, 32), (64, 32), (32, 16), (24, 8), (6, 2), (5, 1), (1, 1)]
)
def test_groups_come_out_even_and_hold_two_channels(channels, groups):
    assert build_norm("group", channels).num_groups == groups


def test_local_norm_starts_from_a_chosen_weight():
    x = torch.randn(1, 7, 2, 2)
    torch.testing.assert_close(LocalNorm(7, weight=3.0)(x), 3 * LocalNorm(7, affine=False)(x))

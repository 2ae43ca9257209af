"""ViTDet's simple pyramid: strides that are whole numbers, maps of any grid."""

import pytest
import torch
import torch.nn.functional as F

from segbench.decoders.attention_unet import AttentionUNet
from segbench.necks.pyramid import Pyramid
from segbench.types import FeatureInfo, Features


def features(info, grid):
    maps = tuple(torch.randn(2, channels, *grid, dtype=torch.float64) for channels in info.channels)
    return Features(torch.zeros(2, 3, *(side * info.strides[-1] for side in grid)), maps)


@pytest.mark.parametrize(
    ("patch", "strides", "widths"),
    [
        (16, (4, 8, 16, 32), (6, 12, 24, 24)),
        (8, (2, 4, 8, 16), (6, 12, 24, 24)),
        (14, (7, 14, 28), (12, 24, 24)),  # a quarter of 14 is not a whole number
        (7, (7, 14), (24, 24)),
    ],
)
@pytest.mark.parametrize("grid", [(4, 6), (3, 5), (1, 1)])
def test_strides_and_sizes(patch, strides, widths, grid):
    neck = Pyramid(FeatureInfo((24,), (patch,), grid)).double()
    assert neck.info.strides == strides
    assert neck.info.channels == widths
    output = neck(features(FeatureInfo((24,), (patch,), grid), grid))
    height, width = output.image.shape[-2:]
    assert [tuple(m.shape) for m in output.maps] == [
        (2, channels, -(-height // stride), -(-width // stride))
        for channels, stride in zip(widths, strides, strict=True)
    ]
    assert output.maps[-1].shape[-2:] == neck.info.grid


def test_levels_are_vitdets_step_by_step():
    info = FeatureInfo((24,), (16,), (3, 5))
    neck = Pyramid(info, channels=10).double()
    for parameter in neck.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    given = features(info, (3, 5))
    x = given.maps[0]

    def norm(layer, x):  # over the channels of each cell
        mean, variance = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
        weight, bias = (p[:, None, None] for p in layer.parameters())
        return (x - mean) / (variance + 1e-5).sqrt() * weight + bias

    four, two, one, half = neck.branches
    scaled = [
        four[3](F.gelu(norm(four[1], four[0](x)))),
        two[0](x),
        x,
        torch.stack([F.pad(x, (0, 1, 0, 1), value=-99)[..., i::2, j::2] for i in (0, 1) for j in (0, 1)]).amax(
            0
        ),
    ]
    for branch, start, level in zip((four, two, one, half), scaled, neck(given).maps, strict=True):
        conv1, norm1, conv3, norm3 = list(branch)[-4:]
        assert conv1.kernel_size == (1, 1)
        assert conv3.kernel_size == (3, 3)
        torch.testing.assert_close(level, norm(norm3, conv3(norm(norm1, conv1(start)))))


@pytest.mark.parametrize(
    ("maps", "sources"), [(1, [0, 0, 0, 0]), (2, [0, 0, 1, 1]), (4, [0, 1, 2, 3]), (12, [0, 4, 7, 11])]
)
def test_shallow_maps_give_fine_levels(maps, sources):
    info = FeatureInfo((8,) * maps, (16,) * maps, (2, 2))
    neck, given = Pyramid(info).double(), features(info, (2, 2))
    for level, source in enumerate(sources):
        leaves = [m.clone().requires_grad_() for m in given.maps]
        neck(Features(given.image, tuple(leaves))).maps[level].square().sum().backward()
        assert [index for index, leaf in enumerate(leaves) if leaf.grad is not None] == [source]


def test_widths_and_norms_of_ones_own():
    info = FeatureInfo((24,), (16,), (3, 5))
    assert Pyramid(info, 64).info.channels == (64,) * 4
    assert Pyramid(info, [8, 16, 32, 64]).info.channels == (8, 16, 32, 64)
    for norm in ("group", "layer", "batch"):
        assert Pyramid(info, norm=norm).double()(features(info, (3, 5))).maps[0].isfinite().all()


def test_feeds_the_attention_unet():
    info = FeatureInfo((24,), (14,), (3, 5))
    neck = Pyramid(info)
    given = Features(torch.zeros(2, 3, 42, 70), tuple(m.float() for m in features(info, (3, 5)).maps))
    assert AttentionUNet(neck.info, 3)(neck(given)).logits.shape == (2, 3, 6, 10)


@pytest.mark.parametrize(
    ("info", "channels", "message"),
    [
        (FeatureInfo((8, 8), (8, 16), (3, 5)), None, r"not strides \[8, 16\]; remove it from necks"),
        (
            FeatureInfo((8,), (16,), (3, 5)),
            [8, 8],
            r"one number, or 4 for strides \[4, 8, 16, 32\]; got \[8, 8\]",
        ),
        (FeatureInfo((8,), (14,), (3, 5)), 0, "or 3 for strides"),
    ],
)
def test_mistakes(info, channels, message):
    with pytest.raises(ValueError, match=message):
        Pyramid(info, channels)

"""The attention U-Net's own encoder against its article."""

import pytest
import torch
import torch.nn.functional as F

from segbench.encoders.conv import ConvEncoder


def test_the_articles_encoder():
    with torch.device("meta"):
        encoder = ConvEncoder((512, 512))
    assert sum(p.numel() for p in encoder.parameters()) == 10_705_440
    assert encoder.info.channels == (192, 192, 384, 768, 1536, 768)
    assert encoder.info.strides == (1, 2, 4, 8, 16, 32)
    assert encoder.info.grid == (16, 16)
    with torch.device("meta"):
        assert ConvEncoder((512, 512), 32).info.channels[0] == 128  # the article's 64 base features, twice


def literal_norm(x, channels_in_group):
    split = x.unflatten(1, (-1, channels_in_group))
    mean, variance = split.mean((2, 3, 4), keepdim=True), split.var((2, 3, 4), keepdim=True, unbiased=False)
    return ((split - mean) / (variance + 1e-5).sqrt()).flatten(1, 2)


@pytest.mark.parametrize("size", [(32, 64), (40, 33)])
def test_equals_the_article_step_by_step(size):
    encoder = ConvEncoder(size, base_features=16).double()
    image = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)
    output = encoder(image.double())
    x = F.pad(image.double() / 255, (0, -size[1] % 32, 0, -size[0] % 32))  # black below and to the right
    assert torch.equal(output.image, x)
    for block, skip in zip(encoder.blocks, output.maps, strict=False):
        in_group = block.conv1.out_channels // 32 if block.conv1.out_channels >= 64 else 2
        first = literal_norm(F.silu(block.conv1(x)), in_group)
        second = literal_norm(F.silu(block.conv2(first)), in_group)
        torch.testing.assert_close(skip, torch.cat([first, second], 1))
        x = second.unflatten(-1, (-1, 2)).amax(-1).unflatten(-2, (-1, 2)).amax(-2)
    torch.testing.assert_close(output.maps[-1], x)


def test_initialisation_is_the_authors():
    block = ConvEncoder((32, 32)).blocks[1]
    assert block.conv1.weight.std().item() == pytest.approx(0.1, rel=0.02)
    assert block.conv1.bias.std().item() == pytest.approx(0.1, rel=0.25)
    assert list(block.norm1.parameters()) == []


def test_depth_groups_are_the_blocks():
    groups = ConvEncoder((32, 32), 4).depth_groups()
    assert [group.depth for group in groups] == [0, 1, 2, 3, 4]
    assert next(name for name, _ in groups[2].parameters) == "blocks.2.conv1.weight"


def test_gradient_checkpointing_changes_neither_values_nor_gradients():
    plain, lean = ConvEncoder((32, 32), 4), ConvEncoder((32, 32), 4, grad_checkpointing=True)
    lean.load_state_dict(plain.state_dict())
    image = torch.rand(1, 3, 32, 64) * 255
    for encoder in (plain, lean):
        sum(m.square().mean() for m in encoder(image).maps).backward()
    for one, other in zip(plain.parameters(), lean.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize("norm", ["layer", "local", "batch"])
def test_other_norms(norm):
    maps = ConvEncoder((32, 64), 4, norm=norm)(torch.rand(2, 3, 32, 64) * 255).maps
    assert all(m.isfinite().all() for m in maps)


def test_mistakes():
    with pytest.raises(ValueError, match="base_features must be at least 1; got 0"):
        ConvEncoder((32, 32), 0)

"""The report's encoder against its layers written out."""

import math

import pytest
import torch
import torch.nn.functional as F
from reference.slow_patches import slow_cut

from segbench.encoders.patch_vit import PatchViT

SIZES = {
    "patch_size": 4,
    "embed_dim": 6,
    "pos_dim": 2,
    "depth": 2,
    "num_heads": 3,
    "key_dim": 5,
    "hidden": (7, 9),
    "bottleneck": (11, 10),
    "feature_dim": 3,
}


def literal(encoder, image):
    """One image in float64, step by step as the report's figure has it."""
    weights = {name: value.double() for name, value in encoder.state_dict().items()}

    def linear(name, x):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(name, x):
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def gelu(x):
        return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))

    def attend(name, x):
        query, key, value = linear(f"{name}.qkv", x).split(15, dim=-1)
        heads = []
        for start in (0, 5, 10):
            q, k, v = (part[:, start : start + 5] for part in (query, key, value))
            heads.append((q @ k.T / math.sqrt(5)).softmax(-1) @ v)
        return linear(f"{name}.proj", torch.cat(heads, dim=-1))

    pixels = image.double() / 255
    pixels = F.pad(pixels, (0, -pixels.shape[2] % 4, 0, -pixels.shape[1] % 4))
    patches = torch.stack(slow_cut(pixels, 4))
    x = torch.cat([linear("patches.project", patches), weights["patches.position"][0]], dim=1)
    for block in ("blocks.0", "blocks.1"):
        x = x + attend(f"{block}.attention", norm(f"{block}.norm1", x))
        y = norm(f"{block}.norm2", x)
        for layer in (0, 3, 6):
            y = gelu(linear(f"{block}.mlp.{layer}", y))
        x = x + y
    flat = norm("norm", x).flatten()
    for layer in (2, 5, 8):
        flat = gelu(linear(f"bottleneck.{layer}", flat))
    return flat.reshape(*encoder.info.grid, 3).permute(2, 0, 1)


@torch.no_grad()
@pytest.mark.parametrize("size", [(8, 12), (12, 8), (9, 6)])
def test_equals_the_literal_encoder(size):
    encoder = PatchViT(size, **SIZES).eval()
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    image = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    output = encoder(image)
    assert output.image[..., : size[0], : size[1]].equal(image / 255.0)
    for index in range(2):
        expected = literal(encoder, image[index]).float()
        torch.testing.assert_close(output.maps[0][index], expected, rtol=1e-4, atol=1e-5)


def test_dropout_is_the_reports():
    encoder = PatchViT((32, 32), depth=1)
    rates = [module.p for module in encoder.modules() if isinstance(module, torch.nn.Dropout)]
    assert rates == [0.4, 0.4, 0.4, 0.2, 0.4, 0.4, 0.4]
    assert encoder.blocks[0].attention.dropout == 0.2


def test_weights_start_as_in_keras():
    encoder = PatchViT((64, 64), depth=1)
    attention = encoder.blocks[0].attention
    limits = {
        encoder.patches.position: 0.05,
        encoder.patches.project.weight: math.sqrt(6 / (768 + 128)),
        # Glorot of tensors (136, 8, 128) and (8, 128, 136), the last two axes in and out, the first a window.
        attention.qkv.weight: math.sqrt(6 / (136 * 8 + 136 * 128)),
        attention.proj.weight: math.sqrt(6 / (8 * 128 + 8 * 136)),
        encoder.bottleneck[2].weight: math.sqrt(6 / (16 * 136 + 1024)),
    }
    for weight, limit in limits.items():
        assert 0.9 * limit < weight.abs().max() <= limit
    biases = [p for name, p in encoder.named_parameters() if name.endswith("bias")]
    assert biases
    assert not any(bias.any() for bias in biases)


def test_layers_are_sorted_by_depth():
    groups = PatchViT((8, 8), **SIZES).depth_groups()
    assert [group.depth for group in groups] == [0, 1, 2, 3]
    rooms = [sorted({name.partition(".")[0] for name, _ in group.parameters}) for group in groups]
    assert rooms == [["patches"], ["blocks"], ["blocks"], ["bottleneck", "norm"]]
    assert {name.split(".")[1] for name, _ in groups[2].parameters} == {"1"}


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"8×12, not 12×8; set window and stride to \[8, 12\]"):
        PatchViT((8, 12), **SIZES)(torch.zeros(1, 3, 12, 8))
    with pytest.raises(ValueError, match="got key_dim=0, bottleneck=-1"):
        PatchViT((8, 8), **SIZES | {"key_dim": 0, "bottleneck": (5, -1)})

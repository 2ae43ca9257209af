"""The mask transformer against official Segmenter's numbers and against its equations written out."""

import math

import pytest
import torch
from torch import nn

from segbench.decoders.mask_transformer import MaskTransformer
from segbench.encoders.timm_vit import TimmViT
from segbench.optim.groups import parameter_groups
from segbench.types import FeatureInfo, Features


def info(channels=24, grid=(3, 4)):
    return FeatureInfo((channels,), (16,), grid)


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("name", "size", "encoder", "decoder"),
    [
        ("vit_tiny_patch16_384", 512, 5_683_392, 1_029_996),
        ("vit_small_patch16_384", 512, 21_983_616, 4_050_348),
        ("vit_base_patch16_384", 512, 86_434_560, 16_063_020),
        ("vit_large_patch16_384", 640, 304_739_328, 28_495_148),
    ],
)
def test_parameters_are_those_of_official_segmenter_less_the_unused_class_head(name, size, encoder, decoder):
    with torch.device("meta"):
        vit = TimmViT((size, size), name)
        mask = MaskTransformer(vit.info, 150)
    assert count(vit) == encoder
    assert count(mask) == decoder


def test_keys_are_those_of_official_checkpoints():
    keys = set(MaskTransformer(info(192), 150).state_dict())
    block = {
        f"{layer}.{kind}"
        for layer in ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
        for kind in ("weight", "bias")
    }
    assert keys == {f"blocks.{index}.{key}" for index in (0, 1) for key in block} | {
        "cls_emb",
        "proj_dec.weight",
        "proj_dec.bias",
        "proj_patch",
        "proj_classes",
        "decoder_norm.weight",
        "decoder_norm.bias",
        "mask_norm.weight",
        "mask_norm.bias",
    }


def layer_norm(x, norm):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight + norm.bias


def written_out(decoder, feature_map):
    """One image, loops over heads and patches, in the order of the paper; (K, h, w)."""
    _, height, width = feature_map.shape
    z = torch.stack([feature_map[:, i // width, i % width] for i in range(height * width)])  # row by row
    z = torch.cat([z @ decoder.proj_dec.weight.T + decoder.proj_dec.bias, decoder.cls_emb[0]])
    for block in decoder.blocks:
        d = z.shape[1]
        heads = block.attn.num_heads
        qkv = layer_norm(z, block.norm1) @ block.attn.qkv.weight.T + block.attn.qkv.bias
        mixed = []
        for head in range(heads):
            q, k, v = (qkv[:, part * d :][:, head * d // heads : (head + 1) * d // heads] for part in range(3))
            mixed.append((q @ k.T / math.sqrt(d / heads)).softmax(-1) @ v)
        z = z + torch.cat(mixed, -1) @ block.attn.proj.weight.T + block.attn.proj.bias
        hidden = layer_norm(z, block.norm2) @ block.mlp.fc1.weight.T + block.mlp.fc1.bias
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))  # exact GELU
        z = z + hidden @ block.mlp.fc2.weight.T + block.mlp.fc2.bias
    z = layer_norm(z, decoder.decoder_norm)
    patches, classes = z[: height * width] @ decoder.proj_patch, z[height * width :] @ decoder.proj_classes
    scores = torch.stack(
        [
            torch.stack([patch @ c / (patch.square().sum().sqrt() * c.square().sum().sqrt()) for c in classes])
            for patch in patches
        ]
    )
    return layer_norm(scores, decoder.mask_norm).T.reshape(-1, height, width)


@pytest.mark.parametrize("options", [{}, {"embed_dim": 32, "num_heads": 4, "depth": 3, "mlp_ratio": 2.0}])
def test_masks_are_the_equations_written_out(options):
    torch.manual_seed(0)
    decoder = MaskTransformer(info(), 5, **options).double().eval()
    for parameter in decoder.parameters():  # no zeros and ones that hide a missing bias or norm
        nn.init.normal_(parameter, std=0.3)
    maps = torch.randn(2, 24, 3, 4, dtype=torch.float64)
    got = decoder(Features(torch.zeros(2, 3, 48, 64), (maps,))).logits
    torch.testing.assert_close(got, torch.stack([written_out(decoder, image) for image in maps]))


def test_initialisation_is_official():
    torch.manual_seed(0)
    decoder = MaskTransformer(info(256), 150)
    assert decoder.proj_patch.std().item() == pytest.approx(1 / 16, rel=0.02)
    assert decoder.proj_classes.std().item() == pytest.approx(1 / 16, rel=0.02)
    assert decoder.cls_emb.std().item() == pytest.approx(0.02, rel=0.02)
    assert decoder.blocks[0].attn.qkv.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert not decoder.blocks[1].mlp.fc2.bias.any()


def test_dropout_and_stochastic_depth_are_the_decoders_own():
    decoder = MaskTransformer(info(), 5, dropout=0.2, drop_path_rate=0.3, depth=4)
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in decoder.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3])
    assert {module.p for module in decoder.modules() if isinstance(module, nn.Dropout)} == {0.2}


def test_class_embeddings_do_not_decay():
    decoder = MaskTransformer(info(), 5)
    groups = parameter_groups([(0, [])], set(), [nn.Sequential(decoder)])
    kept = {id(p) for group in groups if group.get("weight_decay") == 0 for p in group["params"]}
    names = {name for name, parameter in decoder.named_parameters() if id(parameter) in kept}
    assert "cls_emb" in names
    assert "proj_patch" not in names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": -3}, "must be positive; got 24, -3 and 4.0"),
        ({"num_heads": 0}, "must be positive; got 24, 0 and 4.0"),
        ({"embed_dim": 0}, "must be positive; got 0, 1 and 4.0"),
        ({"mlp_ratio": 0.0}, "must be positive; got 24, 1 and 0.0"),
        ({"num_heads": 5}, "embed_dim 24 does not divide into num_heads 5"),
        ({"dropout": 1.0}, "dropout"),
        ({"depth": -1}, "depth must be at least 0"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        MaskTransformer(info(), 5, **options)

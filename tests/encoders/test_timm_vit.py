"""Any timm vision transformer, at any size, with weights from anywhere."""

import math

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F

from segbench.commands.bench.timing import peak_bytes
from segbench.encoders.base import skip_pretrained_weights
from segbench.encoders.timm_vit import TimmViT

TINY = "vit_tiny_patch16_384"


def test_parameter_count_of_the_thesis_encoder():
    # Segmenter's ViT-Ti/16 at crop 512 without its unused classification head.
    assert sum(p.numel() for p in TimmViT((512, 512)).parameters()) == 5_683_392


@pytest.mark.parametrize(
    ("name", "patch", "width"),
    [
        ("deit_tiny_distilled_patch16_224", 16, 192),  # distillation token
        ("vit_small_patch14_reg4_dinov2", 14, 384),  # registers, LayerScale
        ("vit_small_patch16_dinov3", 16, 384),  # rotary embedding, no learned one
        ("vit_small_patch32_224", 32, 384),
        ("vit_base_patch8_224", 8, 768),
        ("eva02_tiny_patch14_224", 14, 192),
    ],
)
def test_families(name, patch, width):
    encoder = TimmViT((64, 90), name, depths=[0, 2])  # the blocks behind are dropped: quick
    image = torch.randint(0, 256, (1, 3, 70, 61), dtype=torch.uint8)
    output = encoder(image)
    rows, columns = -(-70 // patch), -(-61 // patch)
    assert [tuple(m.shape) for m in output.maps] == [(1, width, rows, columns)] * 2
    assert encoder.info.channels == (width, width)
    assert encoder.info.strides == (patch, patch)
    sum(m.square().sum() for m in output.maps).backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None] == []


def test_features_are_those_of_timm():
    encoder = TimmViT((64, 64), TINY).eval()
    reference = timm.create_model(TINY, num_classes=0, img_size=64).eval()
    reference.load_state_dict(encoder.vit.state_dict())
    image = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    expected = reference.forward_features((image / 255 - 0.5) / 0.5)[:, 1:]  # class token dropped
    got = encoder(image).maps[0].flatten(2).transpose(1, 2)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_padding_is_the_mean_colour_at_bottom_and_right():
    encoder = TimmViT((64, 64), TINY).eval()
    image = torch.randint(0, 256, (1, 3, 50, 40)).float()
    by_hand = F.pad(image - 127.5, (0, 8, 0, 14)) + 127.5
    torch.testing.assert_close(encoder(image), encoder(by_hand))


@pytest.mark.parametrize(
    ("resampling", "mode", "antialias"),
    [("bilinear", "bilinear", False), ("bicubic", "bicubic", False), ("bicubic-antialias", "bicubic", True)],
)
def test_position_embedding_is_resampled_as_asked(resampling, mode, antialias):
    encoder = TimmViT((64, 64), TINY, pos_embed_resampling=resampling).eval()
    grid = encoder.vit.pos_embed[:, 1:].reshape(1, 4, 4, 192).permute(0, 3, 1, 2)
    resized = F.interpolate(grid, (2, 8), mode=mode, antialias=antialias, align_corners=False)
    # 2×8 cells are as many tokens as 4×4: comparing counts would miss that they must be resampled.
    native = TimmViT((32, 128), TINY).eval()
    state = encoder.vit.state_dict()
    state["pos_embed"] = torch.cat([state["pos_embed"][:, :1], resized.flatten(2).transpose(1, 2)], dim=1)
    native.vit.load_state_dict(state)
    image = torch.randint(0, 256, (1, 3, 32, 128), dtype=torch.uint8)
    torch.testing.assert_close(encoder(image).maps, native(image).maps, rtol=1e-4, atol=1e-4)


def test_layer_norm_epsilon():
    default, official = TimmViT((32, 32), TINY), TimmViT((32, 32), TINY, norm_eps=1e-5)
    assert {m.eps for m in default.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-6}
    assert {m.eps for m in official.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-5}


def test_drop_path_rises_to_its_rate():
    encoder = TimmViT((32, 32), TINY, drop_path_rate=0.1)
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in encoder.vit.blocks]
    assert rates == pytest.approx([0.1 * i / 11 for i in range(12)])


def test_frozen_encoder_has_no_gradients_and_stays_in_evaluation():
    encoder = TimmViT((32, 32), TINY, frozen=True, drop_path_rate=0.5).train()
    assert not any(module.training for module in encoder.modules())
    assert not any(p.requires_grad for p in encoder.parameters())
    assert not encoder(torch.rand(1, 3, 32, 32)).maps[0].requires_grad


def test_gradient_checkpointing_changes_neither_values_nor_gradients():
    plain, lean = TimmViT((32, 32), TINY), TimmViT((32, 32), TINY, grad_checkpointing=True)
    lean.load_state_dict(plain.state_dict())
    image = torch.rand(1, 3, 32, 32) * 255
    for encoder in (plain, lean):
        encoder(image).maps[0].square().sum().backward()
    for one, other in zip(plain.parameters(), lean.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5)


def test_gradient_checkpointing_holds_a_fraction_of_the_memory():
    def peak(**options):
        encoder, image = TimmViT((128, 128), TINY, **options), torch.rand(2, 3, 128, 128) * 255
        encoder(image).maps[0].sum().backward()  # the gradients of the weights are there before and after
        return peak_bytes(lambda: encoder(image).maps[0].sum().backward(), torch.device("cpu"))

    assert peak(grad_checkpointing=True) < 0.5 * peak()


def test_layer_groups_follow_depth():
    groups = TimmViT((32, 32), TINY).depth_groups()
    assert [group.depth for group in groups] == list(range(13))  # stem and twelve blocks
    names = [{name for name, _ in group.parameters} for group in groups]
    assert "vit.pos_embed" in names[0]
    assert "vit.blocks.0.attn.qkv.weight" in names[1]
    assert "vit.norm.weight" in names[12]


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("size", [384, 64])
def test_weights_from_a_file(tmp_path, suffix, size):
    source = timm.create_model(TINY, img_size=size)  # with its head, which is dropped
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"model": source.state_dict()}, path)
    else:
        safetensors.torch.save_file(source.state_dict(), path)
    encoder = TimmViT((64, 64), TINY, pretrained=path)
    torch.testing.assert_close(encoder.vit.blocks[3].mlp.fc1.weight, source.blocks[3].mlp.fc1.weight)
    if size == 64:
        torch.testing.assert_close(encoder.vit.pos_embed, source.pos_embed)
    else:
        grid = source.pos_embed[:, 1:].reshape(1, 24, 24, 192).permute(0, 3, 1, 2)
        resized = F.interpolate(grid, (4, 4), mode="bicubic", antialias=True, align_corners=False)
        torch.testing.assert_close(encoder.vit.pos_embed[:, 1:], resized.flatten(2).transpose(1, 2))


def augreg_arrays(vit):
    """Writes a timm transformer as AugReg files have it: flax names, kernels with inputs first."""
    state = {name: value.detach().numpy() for name, value in vit.state_dict().items()}
    heads, width = vit.blocks[0].attn.num_heads, vit.embed_dim
    arrays = {
        "cls": state["cls_token"],
        "embedding/kernel": state["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
        "Transformer/posembed_input/pos_embedding": state["pos_embed"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
        "head/kernel": state["head.weight"].T,
        "head/bias": state["head.bias"],
    }
    for i in range(len(vit.blocks)):
        ours, theirs = f"blocks.{i}.", f"Transformer/encoderblock_{i}/"
        for norm, layer in (("norm1", "LayerNorm_0"), ("norm2", "LayerNorm_2")):
            arrays[f"{theirs}{layer}/scale"] = state[f"{ours}{norm}.weight"]
            arrays[f"{theirs}{layer}/bias"] = state[f"{ours}{norm}.bias"]
        attention = f"{theirs}MultiHeadDotProductAttention_1/"
        weights, biases = (np.split(state[f"{ours}attn.qkv.{kind}"], 3) for kind in ("weight", "bias"))
        for part, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
            arrays[f"{attention}{part}/kernel"] = weight.T.reshape(width, heads, -1)
            arrays[f"{attention}{part}/bias"] = bias.reshape(heads, -1)
        arrays[f"{attention}out/kernel"] = state[f"{ours}attn.proj.weight"].T.reshape(heads, -1, width)
        arrays[f"{attention}out/bias"] = state[f"{ours}attn.proj.bias"]
        for number, layer in enumerate(("fc1", "fc2")):
            arrays[f"{theirs}MlpBlock_3/Dense_{number}/kernel"] = state[f"{ours}mlp.{layer}.weight"].T
            arrays[f"{theirs}MlpBlock_3/Dense_{number}/bias"] = state[f"{ours}mlp.{layer}.bias"]
    return arrays


@pytest.mark.parametrize("resampling", ["bilinear", "bicubic-antialias"])
def test_weights_in_the_form_of_augreg(tmp_path, resampling):
    source = timm.create_model(TINY, img_size=128)
    np.savez(tmp_path / "Ti_16.npz", **augreg_arrays(source))
    encoder = TimmViT((64, 96), TINY, pretrained=tmp_path / "Ti_16.npz", pos_embed_resampling=resampling)
    expected = source.state_dict()
    for name, value in encoder.vit.state_dict().items():
        if name != "pos_embed":
            torch.testing.assert_close(value, expected[name], msg=name)
    grid = source.pos_embed[:, 1:].reshape(1, 8, 8, 192).permute(0, 3, 1, 2)
    mode, antialias = resampling.split("-")[0], "antialias" in resampling
    resized = F.interpolate(grid, (4, 6), mode=mode, antialias=antialias, align_corners=False)
    torch.testing.assert_close(encoder.vit.pos_embed[:, 1:], resized.flatten(2).transpose(1, 2))
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(ValueError, match=r"pretrained: .*other\.npz holds no AugReg weights"):
        TimmViT((32, 32), TINY, pretrained=tmp_path / "other.npz")


def test_an_augreg_file_of_another_depth_or_with_unknown_arrays_is_refused(tmp_path):
    source = timm.create_model(TINY, img_size=32)
    arrays = augreg_arrays(source)
    deeper = {k.replace("block_3/", "block_12/"): v for k, v in arrays.items() if "block_3/" in k}
    np.savez(tmp_path / "deeper.npz", **arrays, **deeper)
    with pytest.raises(ValueError, match=r"deeper\.npz does not fit this encoder: it has 13 blocks"):
        TimmViT((32, 32), TINY, pretrained=tmp_path / "deeper.npz")
    np.savez(tmp_path / "more.npz", **arrays, adapter=np.zeros(2))
    with pytest.raises(ValueError, match=r"1 arrays unknown \['adapter'\]"):
        TimmViT((32, 32), TINY, pretrained=tmp_path / "more.npz")


def test_deit_and_dino_files(tmp_path):
    deit = timm.create_model("deit_tiny_distilled_patch16_224", img_size=32)
    torch.save({"model": deit.state_dict()}, tmp_path / "deit.pth")  # with head and head_dist
    encoder = TimmViT((64, 64), "deit_tiny_distilled_patch16_224", pretrained=tmp_path / "deit.pth")
    torch.testing.assert_close(encoder.vit.dist_token, deit.dist_token)
    torch.testing.assert_close(encoder.vit.pos_embed[:, :2], deit.pos_embed[:, :2])
    with pytest.raises(ValueError, match=r"deit\.pth does not fit this encoder"):
        TimmViT((32, 32), "deit_tiny_patch16_224", pretrained=tmp_path / "deit.pth")

    dino = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=0)  # DINO's are without head
    torch.save(dino.state_dict(), tmp_path / "dino.pth")
    encoder = TimmViT((32, 32), "vit_tiny_patch16_224", pretrained=tmp_path / "dino.pth")
    torch.testing.assert_close(encoder.vit.pos_embed, dino.pos_embed)
    # As DINO's training leaves them: two networks beside each other, the encoder named.
    teacher = {f"backbone.{key}": value for key, value in dino.state_dict().items()}
    teacher["head.mlp.0.weight"] = torch.zeros(3, 3)
    student = {f"module.{key}": torch.zeros_like(value) for key, value in teacher.items()}
    torch.save({"student": student, "teacher": teacher, "epoch": 3}, tmp_path / "training.pth")
    encoder = TimmViT((32, 32), "vit_tiny_patch16_224", pretrained=tmp_path / "training.pth")
    torch.testing.assert_close(encoder.vit.blocks[5].attn.qkv.weight, dino.blocks[5].attn.qkv.weight)


@pytest.mark.parametrize("suffix", [".pth", ".npz"])
def test_patches_of_another_size_are_resampled(tmp_path, suffix):
    source, path = timm.create_model(TINY, img_size=64), tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(source.state_dict(), path)
    else:
        np.savez(path, **augreg_arrays(source))
    encoder = TimmViT((64, 64), TINY, pretrained=path, patch_size=8)
    assert encoder.info.grid == (8, 8)
    assert encoder.info.strides == (8,)
    assert encoder.vit.pos_embed.shape == (1, 65, 192)
    # What a patch embedding sees in an image is what the smaller one sees in the image made smaller.
    image = torch.randn(1, 3, 4, 4)
    large = F.interpolate(image, scale_factor=4, mode="bicubic", antialias=True)
    small = F.interpolate(image, scale_factor=2, mode="bicubic", antialias=True)
    expected, found = source.patch_embed.proj(large).flatten(), encoder.vit.patch_embed.proj(small).flatten()
    assert torch.corrcoef(torch.stack([expected, found]))[0, 1] > 0.9
    with pytest.raises(ValueError, match="patch_size must be at least 1"):
        TimmViT((64, 64), TINY, patch_size=0)


def test_weights_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "small.pth"
    torch.save(timm.create_model("vit_small_patch16_224").state_dict(), path)
    with pytest.raises(ValueError, match=r"pretrained: .*small\.pth does not fit this encoder"):
        TimmViT((32, 32), TINY, pretrained=path)
    torch.save({"state_dict": {"blocks.0.norm1.weight": torch.zeros(192)}}, path)
    with pytest.raises(ValueError, match="keys missing"):
        TimmViT((32, 32), TINY, pretrained=path)
    state = timm.create_model(TINY).state_dict()
    state["norm.weight"][3] = math.nan
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"norm\.weight holds numbers that are not finite"):
        TimmViT((32, 32), TINY, pretrained=path)


def test_files_that_need_unpickling_are_refused(tmp_path):
    path = tmp_path / "code.pth"
    torch.save({"model": np.random.default_rng}, path)
    with pytest.raises(ValueError, match="without running code"):
        TimmViT((32, 32), TINY, pretrained=path)


def test_without_network_the_message_says_how_to_give_a_file():
    with pytest.raises(ValueError, match="without network give a file") as error:
        TimmViT((32, 32), f"{TINY}.augreg_in21k_ft_in1k", pretrained=True)
    assert "\n" not in str(error.value)


def test_no_weights_are_fetched_where_a_checkpoint_follows():
    with skip_pretrained_weights():
        TimmViT((32, 32), f"{TINY}.augreg_in21k_ft_in1k", pretrained=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_name": "vit_tiny_patch61"}, "timm has no model 'vit_tiny_patch61'"),
        (
            {"model_name": f"{TINY}.augreg_in1k"},
            f"no weights 'augreg_in1k' for {TINY}; there are {TINY}.augreg_in21k",
        ),
        ({"model_name": f"{TINY}.imagenet"}, f"no weights 'imagenet' for {TINY}; there are {TINY}."),
        ({"model_name": "vit_tiny_r_s16_p8_224.in1k"}, "there are vit_tiny_r_s16_p8_224.augreg_in21k"),
        ({"model_name": "resnet18"}, "not a vision transformer"),
        ({"depths": [12]}, "blocks 0 to 11"),
        ({"depths": []}, "blocks 0 to 11"),
        ({"pretrained": "nowhere.pth"}, "file not found: nowhere.pth"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(ValueError, match=message):
        TimmViT((32, 32), **options)

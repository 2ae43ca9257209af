"""Any network of timm whose maps form a pyramid, with weights from anywhere."""

import numpy as np
import pytest
import safetensors.torch
import timm
import torch

from segbench.encoders.base import skip_pretrained_weights
from segbench.encoders.timm_cnn import TimmCNN

SMALL = "convnext_atto"


@pytest.mark.parametrize(
    ("name", "strides", "channels"),
    [
        ("resnet18", (2, 4, 8, 16, 32), (64, 64, 128, 256, 512)),
        ("convnext_atto", (4, 8, 16, 32), (40, 80, 160, 320)),
        ("efficientnet_b0", (2, 4, 8, 16, 32), (16, 24, 40, 112, 320)),
        ("mobilenetv3_small_100", (2, 4, 8, 16, 32), (16, 16, 24, 48, 576)),
        ("pvt_v2_b0", (4, 8, 16, 32), (32, 64, 160, 256)),
    ],
)
def test_families(name, strides, channels):
    encoder = TimmCNN((64, 90), name)
    assert encoder.info == (channels, strides, (2, 3))
    output = encoder(torch.randint(0, 256, (2, 3, 70, 61), dtype=torch.uint8))
    assert output.image.shape == (2, 3, 96, 64)
    assert [tuple(m.shape) for m in output.maps] == [
        (2, width, 96 // stride, 64 // stride) for width, stride in zip(channels, strides, strict=True)
    ]
    sum(m.square().mean() for m in output.maps).backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None] == []


def test_features_are_those_of_timm():
    encoder = TimmCNN((64, 64), SMALL).eval()
    reference = timm.create_model(SMALL, features_only=True).eval()
    # timm's wrapper writes stem_0 for stem.0 and stages_1 for stages.1.
    state = {
        name.replace("stem.", "stem_").replace("stages.", "stages_"): value
        for name, value in encoder.cnn.state_dict().items()
    }
    reference.load_state_dict(state)
    image = torch.randint(0, 256, (1, 3, 64, 32), dtype=torch.uint8)
    mean, std = (torch.tensor(reference.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    expected = reference((image / 255 - mean) / std)
    torch.testing.assert_close(list(encoder(image).maps), expected, rtol=1e-4, atol=1e-4)


def test_levels_drop_what_lies_behind_them():
    encoder = TimmCNN((64, 64), "resnet18", levels=[1, -3])
    assert encoder.info.strides == (4, 8)
    assert encoder.info.channels == (64, 128)
    assert encoder(torch.rand(1, 3, 20, 30)).image.shape == (1, 3, 24, 32)
    assert not [name for name, _ in encoder.named_parameters() if "layer3" in name]


def test_frozen_encoder_has_no_gradients_and_its_norms_stay_as_they_are():
    encoder = TimmCNN((32, 32), "resnet18", frozen=True).train()
    before = encoder.cnn.bn1.running_mean.clone()
    assert not encoder(torch.rand(2, 3, 32, 32) * 255).maps[-1].requires_grad
    assert torch.equal(encoder.cnn.bn1.running_mean, before)
    assert not any(p.requires_grad for p in encoder.parameters())


def test_layer_groups_follow_depth():
    groups = TimmCNN((32, 32), "resnet18").depth_groups()
    depth = {name: group.depth for group in groups for name, _ in group.parameters}
    assert depth["cnn.conv1.weight"] == 0
    assert (
        depth["cnn.layer1.0.conv1.weight"]
        < depth["cnn.layer1.1.conv1.weight"]
        < depth["cnn.layer4.0.conv1.weight"]
    )


def test_drop_path_and_gradient_checkpointing_reach_the_network():
    encoder = TimmCNN((32, 32), SMALL, drop_path_rate=0.2, grad_checkpointing=True)
    rates = [module.drop_prob for module in encoder.modules() if hasattr(module, "drop_prob")]
    assert max(rates) == pytest.approx(0.2)
    assert encoder.cnn.stages[0].grad_checkpointing


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("name", ["resnet18", "convnext_atto"])
def test_weights_from_a_file(tmp_path, name, suffix):
    source = timm.create_model(name)  # with its classifier, which is dropped
    state = {key: value for key, value in source.state_dict().items() if "num_batches_tracked" not in key}
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": state}, path)
    else:
        safetensors.torch.save_file(state, path)
    encoder = TimmCNN((64, 64), name, pretrained=path)
    for key, value in encoder.cnn.named_parameters():
        torch.testing.assert_close(value, source.get_parameter(key), msg=key)


def test_weights_in_the_names_of_the_networks_authors(tmp_path):
    source = timm.create_model(SMALL)
    names = {"stem": "downsample_layers.0", "norm": "norm"}
    theirs = {}
    for key, value in source.state_dict().items():
        key = key.replace("stem.", f"{names['stem']}.")
        for stage in range(4):
            key = key.replace(f"stages.{stage}.downsample", f"downsample_layers.{stage}")
            key = key.replace(f"stages.{stage}.blocks", f"stages.{stage}")
        key = key.replace("conv_dw", "dwconv").replace("mlp.fc1", "pwconv1").replace("mlp.fc2", "pwconv2")
        key = key.replace("head.norm.", "norm.").replace("head.fc.", "head.")
        theirs[key] = value
    torch.save({"model": theirs}, tmp_path / "authors.pth")
    encoder = TimmCNN((64, 64), SMALL, pretrained=tmp_path / "authors.pth")
    torch.testing.assert_close(
        encoder.cnn.stages[1].blocks[0].mlp.fc1.weight, source.stages[1].blocks[0].mlp.fc1.weight
    )


def test_weights_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "other.pth"
    torch.save(timm.create_model("resnet34").state_dict(), path)
    with pytest.raises(
        ValueError, match=r"pretrained: .*other\.pth does not fit this encoder: 0 keys missing .* unknown"
    ):
        TimmCNN((32, 32), "resnet18", pretrained=path)
    torch.save(timm.create_model("resnet18", in_chans=1).state_dict(), path)
    with pytest.raises(ValueError, match=r"other\.pth does not fit this encoder: size mismatch"):
        TimmCNN((32, 32), "resnet18", pretrained=path)
    torch.save({"model": np.random.default_rng}, path)
    with pytest.raises(ValueError, match=r"without running code from it .* give a safetensors or pth file"):
        TimmCNN((32, 32), "resnet18", pretrained=path)


def test_without_network_the_message_says_how_to_give_a_file():
    with pytest.raises(ValueError, match="without network give a file") as error:
        TimmCNN((32, 32), f"{SMALL}.d2_in1k", pretrained=True)
    assert "\n" not in str(error.value)


def test_no_weights_are_fetched_where_a_checkpoint_follows():
    with skip_pretrained_weights():
        TimmCNN((32, 32), f"{SMALL}.d2_in1k", pretrained=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_name": "resnet81"}, "timm has no model 'resnet81'; near it: "),
        ({"model_name": "vit_tiny_patch16_224"}, "TimmViT for a plain ViT"),
        ({"model_name": "vit_small_patch16_dinov3"}, "TimmViT for a plain ViT"),
        ({"model_name": "swin_tiny_patch4_window7_224"}, "no maps of images of any size"),
        ({"model_name": "resnet18", "levels": [5]}, r"resnet18 has levels 0 to 4; got \[5\]"),
        ({"model_name": "resnet18", "levels": []}, r"levels 0 to 4; got \[\]"),
        (
            {"model_name": "resnet18", "levels": [1, 3]},
            r"have strides \[4, 16\], which do not double; choose levels",
        ),
        ({"pretrained": "nowhere.pth"}, "file not found: nowhere.pth"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(ValueError, match=message) as error:
        TimmCNN((32, 32), **options)
    assert "\n" not in str(error.value)

"""Every encoder, neck and loss keeps its contract; a new file is found by itself.

Decoders have a suite that users can run as well: tests/conformance/test_conformance.py.
"""

import pytest
import torch
from discovery import discover
from torch import nn

import segbench.encoders
import segbench.losses
import segbench.necks
from segbench.encoders.base import Encoder
from segbench.losses.base import Loss
from segbench.necks.base import Neck
from segbench.types import FeatureInfo, Features, Prediction

K = 5
IGNORE = 255
# What necks are tried on, the first that they accept: tokens of one stride, and a pyramid.
INFOS = (
    FeatureInfo(channels=(48, 48), strides=(16, 16), grid=(3, 4)),
    FeatureInfo(channels=(32, 32, 32, 64), strides=(2, 4, 8, 16), grid=(3, 4)),
)


ENCODERS = discover(segbench.encoders, Encoder)
NECKS = [cls for cls in discover(segbench.necks, Neck) if cls is not Neck]
LOSSES = discover(segbench.losses, Loss)


def build(cls: type) -> nn.Module:
    torch.manual_seed(0)
    if issubclass(cls, Encoder):
        return cls((48, 64))
    refused = []
    for info in INFOS:
        try:
            module = cls(info)
        except ValueError as error:
            refused.append(str(error))
        else:
            module.accepted = info
            return module
    raise AssertionError(f"{cls.__name__} accepts none of the features: {refused}")


def features(info: FeatureInfo = INFOS[0], batch: int = 2, grid: tuple[int, int] = (3, 4)) -> Features:
    size = tuple(side * 16 for side in grid)
    maps = tuple(
        torch.randn(batch, channels, *(side // stride for side in size))
        for channels, stride in zip(info.channels, info.strides, strict=True)
    )
    return Features(torch.randn(batch, 3, *size), maps)


def inputs(module: nn.Module, batch: int = 2) -> torch.Tensor | Features:
    if isinstance(module, Encoder):
        return torch.randint(0, 256, (batch, 3, 48, 64)).float()
    return features(module.accepted, batch)


def tensors(output: Features) -> list[torch.Tensor]:
    return list(output.maps)


def part(inputs: torch.Tensor | Features, index: int) -> torch.Tensor | Features:
    if isinstance(inputs, torch.Tensor):
        return inputs[index : index + 1]
    return Features(inputs.image[index : index + 1], tuple(m[index : index + 1] for m in inputs.maps))


def doubled(inputs: torch.Tensor | Features) -> torch.Tensor | Features:
    if isinstance(inputs, torch.Tensor):
        return inputs.double()
    return Features(inputs.image.double(), tuple(m.double() for m in inputs.maps))


def test_every_room_was_searched():
    assert {cls.__name__ for cls in ENCODERS} >= {"TimmViT"}
    assert {cls.__name__ for cls in NECKS} >= {"MeanShift"}
    assert {cls.__name__ for cls in LOSSES} >= {
        "BoundaryBCE",
        "ClippedCrossEntropy",
        "CrossEntropy",
        "Dice",
        "GradientSparsity",
        "MeanAbsoluteColor",
        "SoftIoU",
    }


@pytest.mark.parametrize("cls", ENCODERS)
@pytest.mark.parametrize("size", [(48, 64), (50, 61), (17, 97)])
def test_encoder_info_is_true_at_any_size(cls, size):
    encoder = build(cls).eval()
    image = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)
    if encoder.fixed_size and size != (48, 64):
        with pytest.raises(ValueError, match="window"):  # the remedy
            encoder(image)
        return
    output = encoder(image)
    assert torch.equal(encoder.normalize(image), output.image)
    height, width = output.image.shape[-2:]
    assert height >= size[0]
    assert width >= size[1]
    assert len(output.maps) == len(encoder.info.channels) == len(encoder.info.strides)
    for feature_map, channels, stride in zip(
        output.maps, encoder.info.channels, encoder.info.strides, strict=True
    ):
        assert feature_map.shape == (1, channels, -(-height // stride), -(-width // stride))
    at_img_size = encoder(torch.zeros(1, 3, 48, 64, dtype=torch.uint8))
    assert at_img_size.maps[-1].shape[-2:] == encoder.info.grid


@pytest.mark.parametrize("cls", ENCODERS)
def test_encoder_takes_uint8_and_float_alike(cls):
    encoder = build(cls).eval()
    image = torch.randint(0, 256, (1, 3, 48, 64), dtype=torch.uint8)
    torch.testing.assert_close(encoder(image), encoder(image.float()))


@pytest.mark.parametrize("cls", ENCODERS)
def test_encoder_depth_groups_hold_every_parameter_once(cls):
    encoder = build(cls)
    named = [name for group in encoder.depth_groups() for name, _ in group.parameters]
    assert sorted(named) == sorted(name for name, _ in encoder.named_parameters())
    assert encoder.no_weight_decay() <= set(named)


@pytest.mark.parametrize("cls", NECKS)
def test_neck_info_is_true_and_image_untouched(cls):
    neck = build(cls)
    given = features(neck.accepted, grid=(3, 5))
    output = neck(given)
    assert output.image is given.image
    for feature_map, channels, stride in zip(output.maps, neck.info.channels, neck.info.strides, strict=True):
        assert feature_map.shape == (2, channels, -(-48 // stride), -(-80 // stride))


@pytest.mark.parametrize("cls", [*ENCODERS, *NECKS])
def test_every_parameter_gets_a_gradient(cls):
    module = build(cls)
    for parameter in module.parameters():  # norms that close a residual branch at first, as timm's ResNets have
        if not parameter.any():
            nn.init.constant_(parameter, 0.1)
    sum((tensor * torch.randn_like(tensor)).sum() for tensor in tensors(module(inputs(module)))).backward()
    without = [name for name, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


@pytest.mark.parametrize("cls", [*ENCODERS, *NECKS])
def test_a_batch_of_two_is_two_batches_of_one(cls):
    module = build(cls).eval().double()  # other sizes round otherwise, and deep networks make much of it
    both = doubled(inputs(module))
    together = tensors(module(both))
    apart = [tensors(module(part(both, index))) for index in range(2)]
    for level, tensor in enumerate(together):
        single = torch.cat([output[level] for output in apart])
        torch.testing.assert_close(tensor, single, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cls", [*ENCODERS, *NECKS])
def test_bf16_is_finite(cls):
    module = build(cls)
    given = inputs(module)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = module(given)
    assert all(tensor.isfinite().all() for tensor in tensors(output))


@pytest.mark.parametrize("cls", [*ENCODERS, *NECKS])
def test_weights_survive_a_strict_round_trip(cls):
    one, other = build(cls).eval(), build(cls).eval()
    for parameter in other.parameters():  # nothing that the state dict leaves out may make them equal
        nn.init.normal_(parameter, std=0.1)
    other.load_state_dict(one.state_dict(), strict=True)
    given = inputs(one)
    torch.testing.assert_close(tensors(one(given)), tensors(other(given)))


@pytest.mark.slow
@pytest.mark.parametrize("cls", [*ENCODERS, *NECKS])
def test_compiles_as_one_graph_with_the_same_result_and_keys(cls):
    module = build(cls).eval()
    given, keys = inputs(module), list(module.state_dict())
    eager = tensors(module(given))
    module.compile(fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(tensors(module(given)), eager)
    assert list(module.state_dict()) == keys


def build_loss(cls: type[Loss]) -> Loss:
    loss = cls(K, IGNORE)
    if hasattr(loss, "palette"):  # of a loss on colours, which its task fills in
        loss.palette = torch.rand(K, 3)
    return loss


def prediction(logits: torch.Tensor) -> Prediction:
    """Everything that any loss looks at, made of the same numbers."""
    return Prediction(logits, boundary=logits[:, :1], colors=logits[:, :3].sigmoid())


@pytest.mark.parametrize("cls", LOSSES)
def test_loss_carries_gradients_and_is_zero_without_labels(cls):
    loss = build_loss(cls)
    assert loss.weight == 1.0
    assert loss.name
    logits = torch.randn(2, K, 3, 4, requires_grad=True)
    label = torch.randint(0, K, (2, 12, 16))
    value = loss(prediction(logits), label)
    value.backward()
    assert value.ndim == 0
    assert logits.grad is not None
    assert logits.grad.abs().sum() > 0
    nothing = loss(prediction(logits), torch.full_like(label, IGNORE))
    assert nothing.item() == 0
    nothing.backward()


@pytest.mark.parametrize("cls", LOSSES)
def test_ignored_pixels_change_nothing(cls):
    loss = build_loss(cls)
    logits = torch.randn(1, K, 4, 4)
    label = torch.randint(0, K, (1, 8, 8))
    label[:, 4:] = IGNORE
    other = logits.clone()
    other[:, :, -1] += 100  # only ignored pixels are made of the last row
    torch.testing.assert_close(loss(prediction(logits), label), loss(prediction(other), label))

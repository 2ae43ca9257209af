"""The attention U-Net against its article: counts, a literal re-statement, and that it learns."""

import pytest
import torch
import torch.nn.functional as F

from segbench.decoders.attention_unet import AttentionUNet, position_code, skip_up
from segbench.encoders.conv import ConvEncoder
from segbench.layers.local_attention import LocalAttention
from segbench.losses.cross_entropy import CrossEntropy
from segbench.metrics.segmentation import SegmentationScores
from segbench.types import FeatureInfo, Features

INFO = FeatureInfo(channels=(16, 24, 32), strides=(4, 8, 16), grid=(3, 4))


def features(info=INFO, size=(48, 64), dtype=torch.float32):
    maps = [
        torch.randn(2, channels, *(-(-side // stride) for side in size), dtype=dtype)
        for channels, stride in zip(info.channels, info.strides, strict=True)
    ]
    return Features(torch.zeros(2, 3, *size, dtype=dtype), tuple(maps))


def count(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


@pytest.mark.parametrize(
    ("widths", "parameters"),
    [
        (None, 141_197_257),  # the article's diagram
        ([1536, 768, 384, 192, 192, 192], 143_209_513),  # its code
    ],
)
def test_the_articles_models_have_exactly_its_parameters(widths, parameters):
    with torch.device("meta"):
        encoder = ConvEncoder((512, 512))
        assert count(encoder, AttentionUNet(encoder.info, 24, widths)) == parameters


@pytest.mark.parametrize(("channels", "parameters"), [(192, 7_677_523), (768, 122_610_691)])
def test_default_widths_follow_the_deepest_map(channels, parameters):
    info = FeatureInfo((channels // 4, channels // 2, channels, channels), (4, 8, 16, 32), (16, 16))
    with torch.device("meta"):
        assert count(AttentionUNet(info, 150)) == parameters
        wider = AttentionUNet(
            info._replace(channels=(64, 64, 64, 2048)), 150
        )  # a ResNet's 2048 change one layer
    assert [block.up.out_channels for block in wider.blocks] == [768, 384, 192]
    assert wider.blocks[0].up.in_channels == 1536


def literal_norm(x):
    groups = next(n for n in (32, 16, 8, 4, 2, 1) if x.shape[1] % n == 0 and x.shape[1] >= 2 * n)
    split = x.unflatten(1, (groups, -1))
    mean, variance = split.mean((2, 3, 4), keepdim=True), split.var((2, 3, 4), keepdim=True, unbiased=False)
    return ((split - mean) / (variance + 1e-5).sqrt()).flatten(1, 2)


def literal_attention(attention, x):
    """Four heads, one after the other; keys have an eighth, values a quarter of the channels each."""
    tokens, n = x.flatten(2).transpose(1, 2), x.shape[1]
    q, k, v = (tokens @ attention.qkv.weight.T + attention.qkv.bias).split([n // 2, n // 2, n], dim=-1)
    heads = [
        ((a @ b.transpose(1, 2)) / (n // 8) ** 0.5).softmax(-1) @ c
        for a, b, c in zip(q.split(n // 8, -1), k.split(n // 8, -1), v.split(n // 4, -1), strict=True)
    ]
    mixed = torch.cat(heads, -1) @ attention.proj.weight.T + attention.proj.bias
    return mixed.transpose(1, 2).reshape(x.shape)


def literal_skip_up(x, out_channels):
    batch, channels, height, width = x.shape
    y = torch.zeros(batch, out_channels, 2 * height, 2 * width, dtype=x.dtype)
    for row in range(2 * height):
        for column in range(2 * width):
            cell = x[:, :, row // 2, column // 2]
            if channels > out_channels:
                cell = cell[:, 2 * (row % 2) + column % 2 :: 4]
                cell = torch.cat([cell, cell], dim=1)
            kept = min(cell.shape[1], out_channels)
            y[:, :kept, row, column] = cell[:, :kept]
    return y


def literal_unet(unet, maps):
    """Step by step as the article's diagrams have it."""
    *skips, x = maps
    bottleneck = unet.bottleneck
    x = F.silu(bottleneck.conv2(F.silu(bottleneck.conv1(x))))
    x = literal_norm(x)
    height, width = x.shape[-2:]
    for axis, length in enumerate((width, height)):
        position = torch.arange(length, dtype=torch.float64)
        for channel, wave in enumerate(
            [position.sin(), position.cos(), (position / 100).sin(), (position / 100).cos()]
        ):
            code = wave.expand(height, width) if axis == 0 else wave[:, None].expand(height, width)
            x = torch.cat(
                [
                    x[:, : 4 * axis + channel],
                    x[:, 4 * axis + channel, None] + code,
                    x[:, 4 * axis + channel + 1 :],
                ],
                1,
            )
    for block in bottleneck.blocks:
        skip = x
        x = literal_norm(F.silu(block.conv2(F.silu(block.conv1(x)))))
        x = F.silu(x + literal_attention(block.attention1, x))
        x = F.silu(x + literal_attention(block.attention2, x))
        x = literal_norm(x) + skip
    for block, residual in zip(unet.blocks, reversed(skips), strict=True):
        rows, columns = residual.shape[-2:]
        u = block.up(x)
        y = literal_skip_up(x, u.shape[1])
        x = literal_norm(F.silu(u + y)[..., :rows, :columns])
        both = torch.cat([x, residual], 1)
        weight = torch.cat([block.of_x.weight, block.of_residual.weight], 1)
        change = F.conv2d(both, weight, block.of_x.bias, padding=1)
        if block.attention is not None:
            change = change + block.attention(both)
        x = literal_norm(F.silu(x + change))
        x = literal_norm(F.silu(x + block.conv2(x)))
        x = literal_norm(F.silu(x + block.conv3(x)))
    logits = unet.classify(x)
    mean, variance = logits.mean(1, keepdim=True), logits.var(1, keepdim=True, unbiased=False)
    normalized = (logits - mean) / (variance + 1e-5).sqrt()
    weight, bias = unet.norm.norm.weight[:, None, None], unet.norm.norm.bias[:, None, None]
    return normalized * weight + bias, unet.boundary(x)


@pytest.mark.parametrize(
    "size", [(48, 64), (36, 50), (20, 16)]
)  # 36 and 50: cells are rounded up, then cropped
@pytest.mark.parametrize("local_attention", [None, [1]])
def test_equals_the_article_step_by_step(size, local_attention):
    # 16 → 24 is a skip whose channels do not shrink; 32 → 16 one whose channels do.
    unet = AttentionUNet(INFO, 5, [32, 16, 24], local_attention=local_attention).double()
    given = features(size=size, dtype=torch.float64)
    output = unet(given)
    assert output.logits.shape == (2, 5, -(-size[0] // 4), -(-size[1] // 4))
    logits, boundary = literal_unet(unet, given.maps)
    torch.testing.assert_close(output.logits, logits, rtol=1e-5, atol=1e-5)  # the code's waves are float32
    torch.testing.assert_close(output.boundary, boundary, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("channels", "out_channels"), [(8, 4), (8, 6), (8, 8), (8, 12), (8, 3), (8, 1)])
def test_skip_up_moves_channels_to_pixels_or_repeats_cells(channels, out_channels):
    x = torch.randn(2, channels, 3, 2)
    torch.testing.assert_close(skip_up(x, out_channels), literal_skip_up(x, out_channels))


def test_position_code_tells_all_cells_apart():
    code = position_code((16, 20), device=torch.device("cpu"), dtype=torch.float32)
    assert code.shape == (8, 16, 20)
    cells = code.flatten(1).T
    distance = torch.cdist(cells, cells) + torch.eye(len(cells))
    assert distance.min() > 1e-2
    assert code[:4].std(1).max() == 0  # columns first
    assert code[4:].std(2).max() == 0


def test_initialisation_is_the_authors():
    unet = AttentionUNet(FeatureInfo((64, 128), (1, 2), (8, 8)), 5)
    up = unet.blocks[0]
    for layer in (unet.bottleneck.conv2, up.up, up.of_residual, up.conv3, unet.classify, unet.boundary):
        assert layer.weight.std().item() == pytest.approx(0.1, rel=0.05)
    assert unet.bottleneck.conv2.bias.std().item() == pytest.approx(0.1, rel=0.2)
    attention = unet.bottleneck.blocks[0].attention1
    n = 256  # queries and keys together are as wide as values: fan in and fan out are n in all three
    for weight in (attention.qkv.weight[:n], attention.qkv.weight[n:], attention.proj.weight):
        assert weight.std().item() == pytest.approx((2 / (2 * n)) ** 0.5, rel=0.05)
    assert attention.qkv.bias.unique().tolist() == pytest.approx([0.01])
    assert attention.proj.bias.unique().tolist() == pytest.approx([0.01])
    assert unet.norm.norm.weight.tolist() == [3.0] * 5


@pytest.mark.parametrize(("kind", "blocks"), [("attention", 3), ("xl", 6)])
def test_attention_bottlenecks_differ_in_depth(kind, blocks):
    assert len(AttentionUNet(INFO, 5, bottleneck=kind).bottleneck.blocks) == blocks


def test_plain_bottlenecks():
    given = features()
    default = AttentionUNet(INFO, 5, bottleneck="default")
    assert [tuple(p.shape) for p in default.bottleneck.parameters()] == [
        (64, 32, 1, 1),
        (64,),
        (64, 64, 1, 1),
        (64,),
    ]
    assert default(given).logits.shape == (2, 5, 12, 16)
    none = AttentionUNet(INFO, 5, bottleneck="none")
    assert count(none.bottleneck) == 0
    assert none.blocks[0].up.in_channels == 32
    assert none(given).logits.shape == (2, 5, 12, 16)


def test_local_attention_stands_where_asked():
    unet = AttentionUNet(INFO, 5, local_attention=[0], block_size=4)
    (layer,) = [module for module in unet.modules() if isinstance(module, LocalAttention)]
    assert unet.blocks[0].attention is layer
    assert layer.penalty.shape == (4, 15, 15)
    sum(value.square().sum() for value in unet(features()) if value is not None).backward()
    assert all(p.grad.abs().sum() > 0 for p in unet.parameters())


@pytest.mark.parametrize("norm", ["group", "layer", "instance", "local", "batch"])
def test_every_norm_works(norm):
    output = AttentionUNet(INFO, 5, norm=norm)(features())
    assert output.logits.isfinite().all()


def test_the_boundary_head_can_be_left_out():
    assert AttentionUNet(INFO, 5, boundary=False)(features()).boundary is None
    assert AttentionUNet(INFO, 5)(features()).boundary.shape == (2, 1, 12, 16)


def test_gradient_checkpointing_changes_neither_values_nor_gradients():
    plain, lean = AttentionUNet(INFO, 5), AttentionUNet(INFO, 5, grad_checkpointing=True)
    lean.load_state_dict(plain.state_dict())
    given = features()
    for unet in (plain, lean):
        output = unet(given)
        (output.logits.square().sum() + output.boundary.sum()).backward()
    for one, other in zip(plain.parameters(), lean.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_works_in_channels_last():
    unet = AttentionUNet(INFO, 5, local_attention=[0]).double()
    given = features(dtype=torch.float64)
    last = Features(given.image, tuple(m.contiguous(memory_format=torch.channels_last) for m in given.maps))
    expected = unet(given)
    torch.testing.assert_close(unet.to(memory_format=torch.channels_last)(last), expected)


@pytest.mark.parametrize(
    ("info", "options", "message"),
    [
        (
            FeatureInfo((48, 48), (16, 16), (3, 4)),
            {},
            r"strides \[16, 16\]; put segbench\.necks\.pyramid\.Pyramid",
        ),
        (FeatureInfo((48,), (16,), (3, 4)), {}, r"strides \[16\]; put"),
        (INFO, {"widths": [32, 16]}, "needed are 3 multiples of 8"),
        (INFO, {"widths": [32, 20, 8]}, r"got \[32, 20, 8\]"),
        (INFO, {"widths": []}, "needed are 3"),
        (INFO, {"widths": [], "bottleneck": "none"}, "needed are 3"),
        (INFO, {"local_attention": [2]}, r"local_attention: up-blocks are 0 to 1; got \[2\]"),
    ],
)
def test_mistakes(info, options, message):
    with pytest.raises(ValueError, match=message) as error:
        AttentionUNet(info, 5, **options)
    assert "\n" not in str(error.value)


def test_learns_a_batch_by_heart_with_its_own_encoder():
    label = torch.zeros(2, 32, 32, dtype=torch.long)
    label[0, 5:20, 8:25], label[1, 12:30, 3:14], label[1, 2:9, 18:27] = 1, 2, 1
    image = torch.randint(0, 100, (2, 3, 32, 32), dtype=torch.uint8)
    image[:, 0] += (label * 60).to(torch.uint8)
    encoder = ConvEncoder((32, 32), base_features=4)
    unet = AttentionUNet(encoder.info, 3)
    loss, scores = CrossEntropy(3, 255), SegmentationScores(3)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *unet.parameters()], lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        loss(unet(encoder(image)), label).backward()
        optimizer.step()
    scores.update(unet(encoder(image)).logits.argmax(1), label)
    assert scores.compute()["miou"] > 0.95

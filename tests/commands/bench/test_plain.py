from functools import partial

import pytest
import torch
import torch.nn.functional as F

from segbench.commands.bench.baseline import PlainSegmenter, merge
from segbench.decoders.linear import LinearDecoder
from segbench.decoders.mask_transformer import MaskTransformer
from segbench.encoders.timm_vit import TimmViT
from segbench.losses.cross_entropy import CrossEntropy
from segbench.losses.dice import Dice
from segbench.necks.mean_shift import MeanShift
from segbench.tasks.semantic import SemanticTask


def make(decoder, **options):
    return SemanticTask(
        partial(TimmViT, depths=[0]),
        decoder,
        (32, 32),
        4,
        list("abcd"),
        [[i, 0, 0] for i in range(4)],
        **options,
    ).eval()


IMAGE = torch.randint(256, (2, 3, 40, 53), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("decoder", [LinearDecoder, MaskTransformer])
def test_it_is_the_same_model(decoder):
    task = make(decoder)
    plain = PlainSegmenter(task).eval()
    with torch.inference_mode():
        torch.testing.assert_close(plain(IMAGE), task.logits(IMAGE), rtol=1e-4, atol=1e-5)
        assert torch.equal(plain.segment(IMAGE), task.segment(IMAGE).long())
    assert not {id(p) for p in plain.parameters()} & {id(p) for p in task.parameters()}


@pytest.mark.parametrize("decoder", [LinearDecoder, MaskTransformer])
def test_its_attention_is_not_fused_and_the_tasks_stays_so(decoder, monkeypatch):
    task = make(decoder)
    plain = PlainSegmenter(task)

    def fused(*_, **__):
        raise RuntimeError("fused")

    monkeypatch.setattr(F, "scaled_dot_product_attention", fused)
    plain(IMAGE)
    with pytest.raises(RuntimeError, match="fused"):
        task.logits(IMAGE)


def test_its_loss_is_torchs():
    task = make(
        LinearDecoder, losses=[partial(CrossEntropy, class_weights=[1.0, 2.0, 0.0, 1.0], label_smoothing=0.1)]
    )
    plain = PlainSegmenter(task)
    label = torch.randint(4, (2, 32, 32), dtype=torch.uint8)
    label[:, :4] = 255
    image = IMAGE[..., :32, :32]
    ours = task.losses[0](task(image)[0], label)
    torch.testing.assert_close(plain.cross_entropy(plain(image), label), ours)


@pytest.mark.parametrize(
    "options", [{"necks": [MeanShift]}, {"losses": [CrossEntropy, Dice]}, {"losses": [Dice]}]
)
def test_other_models_have_no_peer(options):
    with pytest.raises(ValueError, match="only Segmenter"):
        PlainSegmenter(make(LinearDecoder, **options))


def test_windows_are_averaged_pixel_by_pixel():
    generator = torch.Generator().manual_seed(0)
    windows = torch.randn(3, 2, 4, 5, generator=generator)
    corners = [(0, 0), (0, 2), (2, 1)]
    labels = merge(windows, corners, (6, 7))
    for y in range(6):
        for x in range(7):
            over = [
                window[:, y - top, x - left]
                for window, (top, left) in zip(windows, corners, strict=True)
                if 0 <= y - top < 4 and 0 <= x - left < 5
            ]
            if over:
                assert labels[y, x] == torch.stack(over).mean(0).argmax()

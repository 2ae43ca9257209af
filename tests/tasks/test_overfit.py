"""Every decoder, with mean shift in front and without, learns one batch by heart through its task."""

from functools import partial

import pytest
import torch
from discovery import discover

import segbench.decoders
from segbench.commands.check_decoder.overfit import quadrants
from segbench.decoders.attention_unet import AttentionUNet
from segbench.decoders.base import Decoder
from segbench.decoders.linear import LinearDecoder
from segbench.decoders.mask_transformer import MaskTransformer
from segbench.decoders.patch_unet import PatchUNet
from segbench.encoders.timm_vit import TimmViT
from segbench.losses.boundary import BoundaryBCE
from segbench.losses.cross_entropy import CrossEntropy
from segbench.metrics.segmentation import SegmentationScores
from segbench.necks.mean_shift import MeanShift
from segbench.necks.pyramid import Pyramid
from segbench.tasks.color import ColorTask
from segbench.tasks.semantic import SemanticTask
from segbench.types import Batch

SHIFT = partial(MeanShift, iterations=1, dim=64)


def learn(build_task, decoder, necks, losses, steps=300, lr=1e-3):
    torch.manual_seed(0)
    image, label = quadrants()
    size = (image.shape[-2], image.shape[-1])
    task = build_task(
        encoder=partial(TimmViT, depths=[1]),
        decoder=decoder,
        img_size=size,
        num_classes=4,
        class_names=list("abcd"),
        palette=[[230, 40, 40], [40, 200, 60], [50, 80, 220], [230, 210, 60]],
        necks=necks,
        losses=losses,
    )
    task.log = lambda *args, **kwargs: None
    optimizer = torch.optim.AdamW(task.parameters(), lr)
    best = 0.0
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        task.train().training_step(Batch(image, label, ("a", "b")), step)["loss"].backward()
        optimizer.step()
        if step % 20 == 0:
            scores = SegmentationScores(4)
            with torch.inference_mode():
                scores.update(task.eval().segment(image), label)
            best = max(best, float(scores.compute()["miou"]))
            if best > 0.95:
                break
    return best


@pytest.mark.parametrize("shift", [False, True], ids=["plain", "mean shift"])
@pytest.mark.parametrize("decoder", discover(segbench.decoders, Decoder))
def test_decoder_overfits_one_batch(decoder, shift):
    pyramid = decoder is AttentionUNet
    necks = [SHIFT] * shift + [Pyramid] * pyramid
    losses = [CrossEntropy, BoundaryBCE] if pyramid else None
    assert learn(SemanticTask, decoder, necks, losses) > 0.95


@pytest.mark.parametrize(
    "options",
    [{"kernel": "symmetric"}, {"temperature": 0.5, "normalize": True}],
    ids=["symmetric", "warm and normalised"],
)
def test_extras_of_mean_shift_overfit_one_batch(options):
    assert learn(SemanticTask, MaskTransformer, [partial(MeanShift, dim=64, **options)], None) > 0.95


@pytest.mark.parametrize("decoder", [LinearDecoder, PatchUNet])
def test_colours_overfit_one_batch(decoder):
    assert learn(ColorTask, decoder, None, None) > 0.95

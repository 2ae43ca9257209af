"""The check that the decoder learns: two drawn images behind a frozen random encoder."""

import torch

from segbench.commands.check_decoder.decoder_under_test import IMG_SIZE, NUM_CLASSES, Fault, Subject
from segbench.kernels.upsample_argmax import upsample_argmax
from segbench.losses.cross_entropy import CrossEntropy
from segbench.metrics.segmentation import SegmentationScores

STEPS = 400
EVERY = 20
LEARNING_RATE = 1e-3
ENOUGH = 0.95


def overfits(subject: Subject) -> str:
    """Checks that a few hundred steps of AdamW fit one batch."""
    decoder = subject.build()
    image, label = quadrants()
    features = subject.bed.encode(image)
    loss = CrossEntropy(NUM_CLASSES, ignore_index=255)
    optimizer = torch.optim.AdamW([p for p in decoder.parameters() if p.requires_grad], lr=LEARNING_RATE)
    miou = 0.0
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        loss(decoder.train()(features), label).backward()
        optimizer.step()
        if step % EVERY == 0:
            with torch.no_grad():
                labels = upsample_argmax(decoder.eval()(features).logits, IMG_SIZE)
            scores = SegmentationScores(NUM_CLASSES)
            scores.update(labels, label)
            miou = max(miou, float(scores.compute()["miou"]))
            if miou > ENOUGH:
                return f"mIoU {miou:.2f} after {step} steps"
    raise Fault(
        f"mIoU {miou:.2f} on the batch trained on, {STEPS} steps of AdamW({LEARNING_RATE:g}), not {ENOUGH:g}; "
        f"do logits depend on the features of their cell, and is nothing detached or saturated?"
    )


def quadrants() -> tuple[torch.Tensor, torch.Tensor]:
    """Draws two images of four coloured quadrants each, whose classes follow the colours.

    Returns:
        Images `(2, 3, H, W)` in 0..255 and labels `(2, H, W)`.
    """
    order = torch.tensor([[[0, 1], [2, 3]], [[3, 2], [1, 0]]])  # (B, 2, 2)
    height, width = IMG_SIZE
    label = order.repeat_interleave(height // 2, dim=1).repeat_interleave(width // 2, dim=2)  # (B, H, W)
    colors = torch.tensor([[230.0, 40, 40], [40, 200, 60], [50, 80, 220], [230, 210, 60]])
    generator = torch.Generator().manual_seed(0)
    noise = 10 * torch.randn(2, 3, height, width, generator=generator)
    return (colors[label].permute(0, 3, 1, 2) + noise).clamp(0, 255), label

"""Cross-entropy of upsampled logits the obvious way, which holds all of them; what the others are held to."""

import torch
import torch.nn.functional as F
from torch import Tensor

from segbench.functional.labels import split_labels


def loss_and_weight(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    pixel_weight: Tensor | None,
    ignore_index: int,
    smoothing: float,
    clip: float | None,
    padded: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """Computes the sums by operations of torch, so that they can be differentiated any number of times.

    Returns:
        The cost and the weight of all pixels; see `upsample_cross_entropy` for the arguments.

    Raises:
        ValueError: If, on the CPU, a label is out of range.
    """
    full = F.interpolate(
        logits.to(torch.promote_types(logits.dtype, torch.float32)),
        padded,
        mode="bilinear",
        align_corners=False,
    )[..., : target.shape[1], : target.shape[2]]
    if weight is not None:
        weight = weight.detach().to(full)
    label, valid = split_labels(target, logits.shape[1], ignore_index)  # (B, H, W)
    share = valid.to(full.dtype)
    if pixel_weight is not None:
        share = share * pixel_weight.detach().to(full)
    total = (share if weight is None else share * weight[label]).sum()
    cost = F.cross_entropy(
        full, label.where(valid, -1), weight, ignore_index=-1, reduction="none", label_smoothing=smoothing
    )
    if clip is not None:
        ceiling = torch.full_like(cost, clip) if weight is None else clip * weight[label]
        cost = cost.where(~(cost >= ceiling), ceiling)
    return (cost * share).sum(), total

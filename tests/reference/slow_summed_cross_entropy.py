"""The summed costs of all pixels with every option, in float64 on logits of full size, for autograd."""

import torch
import torch.nn.functional as F


def slow_summed_cross_entropy(logits, target, weight, pixel_weight, ignore_index, smoothing, clip, padded):
    """Gives Σ cost and Σ weight; what is upsampled to `padded` is cropped to the target."""
    num_classes = logits.shape[1]
    height, width = target.shape[1:]
    full = F.interpolate(logits.double(), padded, mode="bilinear", align_corners=False)[..., :height, :width]
    surprise = full.logsumexp(1, keepdim=True) - full  # −ln p
    weight = torch.ones(num_classes) if weight is None else weight
    weight = weight.double()
    pixel_weight = torch.ones(target.shape) if pixel_weight is None else pixel_weight
    counts = (target != ignore_index) * pixel_weight.double()
    label = target.long().where(target != ignore_index, 0)
    own = surprise.gather(1, label[:, None])[:, 0]
    if clip is not None:
        own = torch.where(own < clip, own, clip)
    spread = (surprise * weight[:, None, None]).sum(1) / num_classes
    cost = (1 - smoothing) * weight[label] * own + smoothing * spread
    return (counts * cost).sum(), (counts * weight[label]).sum()

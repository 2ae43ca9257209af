"""The loss of one pixel after another, in NumPy, written from the definitions."""

import math

import numpy as np


def slow_upsample_cross_entropy(
    logits,
    target,
    ignore_index=255,
    weight=None,
    label_smoothing=0.0,
    *,
    clip=math.inf,
    pixel_weight=None,
    mean_over="valid",
    padded=None,
):
    _, num_classes, height, width = logits.shape
    padded = target.shape[1:] if padded is None else padded
    weight = np.ones(num_classes) if weight is None else weight
    loss, total = 0.0, 0.0
    for b, i, j in np.ndindex(*target.shape):
        label = int(target[b, i, j])
        if label == ignore_index:
            continue
        y, x = centre(i, height, padded[0]), centre(j, width, padded[1])
        pixel = bilinear(logits[b].astype(np.float64), y, x)
        log_p = pixel - pixel.max() - math.log(np.exp(pixel - pixel.max()).sum())
        if clip < -log_p[label]:
            cost = weight[label] * clip
        else:
            goal = np.full(num_classes, label_smoothing / num_classes)
            goal[label] += 1 - label_smoothing
            cost = -(goal * weight * log_p).sum()
        factor = 1.0 if pixel_weight is None else float(pixel_weight[b, i, j])
        loss += factor * cost
        total += factor * weight[label]
    if mean_over == "all":
        total = target.size
    return loss / total if total else 0.0


def centre(pixel, size, out_size):
    """Where the middle of a pixel lies, counted in cells and not beyond the middle of the outermost ones."""
    return min(max((pixel + 0.5) * size / out_size - 0.5, 0.0), size - 1.0)


def bilinear(cells, y, x):
    value = 0.0
    for i in range(cells.shape[1]):
        for j in range(cells.shape[2]):
            value = value + max(0.0, 1 - abs(y - i)) * max(0.0, 1 - abs(x - j)) * cells[:, i, j]
    return value

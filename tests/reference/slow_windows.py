"""Segmenter's evaluation written down step by step, every map at full size and in float64."""

import torch
from torch.nn import functional as F


def bilinear(maps, size):
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def places(length, window, stride):
    found, place = [], 0
    while place < length - window:
        found.append(place)
        place += stride
    return [*found, length - window]


def shrink_or_grow(image, long_limit, short_limit):
    height, width = image.shape[2:]
    factor = min(long_limit / max(height, width), short_limit / min(height, width))
    size = (int(height * factor + 0.5), int(width * factor + 0.5))
    resized = bilinear(image.float(), size)
    return resized.round().to(image.dtype) if image.dtype == torch.uint8 else resized


def at_least(image, window):
    height, width = image.shape[2:]
    if min(height, width) >= window:
        return image
    if height < width:
        return bilinear(image.float(), (window, int(width / height * window)))
    return bilinear(image.float(), (int(height / width * window), window))


def merged_logits(image, forward, *, window=None, stride=None, resize=None, out_size=None):
    """Returns `(B, K, H, W)` float64."""
    out_size = out_size or tuple(image.shape[2:])
    if resize:
        image = shrink_or_grow(image, *resize)
    if window:
        image = at_least(image, window)
    height, width = image.shape[2:]
    tall, wide = (window, window) if window else (height, width)
    results = []
    for one in image.split(1):
        total, count = 0.0, torch.zeros(height, width)
        for y in places(height, tall, stride or tall):
            for x in places(width, wide, stride or wide):
                low, padded = forward(one[:, :, y : y + tall, x : x + wide])
                crop = bilinear(low.double(), padded)[:, :, :tall, :wide]
                placed = torch.zeros(1, low.shape[1], height, width, dtype=torch.float64)
                placed[:, :, y : y + tall, x : x + wide] = crop
                total = total + placed
                count[y : y + tall, x : x + wide] += 1
        results.append(bilinear(total / count, out_size))
    return torch.cat(results)


def averaged_probabilities(image, forward, scales, flip, *, window=None, stride=None, resize=None):
    """Returns `(B, K, H, W)` float64: Segmenter's `inference` over the views of MMSegmentation's pipeline."""
    size = tuple(image.shape[2:])
    limits = resize or (max(size), min(size))
    total, views = 0.0, 0
    for scale in scales:
        for mirrored in [False, True] if flip else [False]:
            view = shrink_or_grow(image, int(limits[0] * scale), int(limits[1] * scale))
            view = view.flip(3) if mirrored else view
            logits = merged_logits(view, forward, window=window, stride=stride, out_size=size)
            logits = logits.flip(3) if mirrored else logits
            total, views = total + logits.softmax(1), views + 1
    return total / views

"""Losses pixel by pixel in NumPy and float64, written from their definitions."""

import math

import numpy as np
from reference.slow_upsample_cross_entropy import bilinear, centre


def upsampled(cells, size):
    """(B, C, h, w) → (B, C, H, W), float64."""
    batch, channels, height, width = cells.shape
    result = np.zeros((batch, channels, *size))
    for i in range(size[0]):
        for j in range(size[1]):
            y, x = centre(i, height, size[0]), centre(j, width, size[1])
            for b in range(batch):
                result[b, :, i, j] = bilinear(cells[b].astype(np.float64), y, x)
    return result


def softmax(logits):
    """Over axis 1."""
    mass = np.exp(logits - logits.max(1, keepdims=True))
    return mass / mass.sum(1, keepdims=True)


def slow_boundary(label, ignore_index):
    """What is boundary, and where anybody can tell."""
    boundary, defined = np.zeros(label.shape, bool), np.zeros(label.shape, bool)
    _, height, width = label.shape
    for b, i, j in np.ndindex(*label.shape):
        around = [(i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)]
        if not all(0 <= y < height and 0 <= x < width for y, x in around):
            continue
        values = [label[b, y, x] for y, x in around]
        if ignore_index in [label[b, i, j], *values]:
            continue
        defined[b, i, j] = True
        boundary[b, i, j] = any(value != label[b, i, j] for value in values)
    return boundary, defined


def slow_clipped_cross_entropy(
    logits, label, ignore_index, class_weights=None, clip=math.inf, boundary_weight=1.0
):
    p = softmax(upsampled(logits, label.shape[1:]))
    boundary, _ = slow_boundary(label, ignore_index)
    cost = total = 0.0
    for b, i, j in np.ndindex(*label.shape):
        if (k := int(label[b, i, j])) != ignore_index:
            weight = 1.0 if class_weights is None else class_weights[k]
            weight *= boundary_weight if boundary[b, i, j] else 1.0
            cost += weight * min(-math.log(p[b, k, i, j]), clip)
            total += weight
    return cost / total if total else 0.0


def slow_boundary_bce(logits, label, ignore_index, positive_weight):
    """As the author's code has it, with probabilities kept off 0 and 1."""
    p = 1 / (1 + np.exp(-upsampled(logits, label.shape[1:])[:, 0]))
    p = p.clip(1e-7, 1 - 1e-7)
    boundary, defined = slow_boundary(label, ignore_index)
    costs = [
        -positive_weight * math.log(p[at]) if boundary[at] else -math.log(1 - p[at])
        for at in np.ndindex(*label.shape)
        if defined[at]
    ]
    return sum(costs) / len(costs) if costs else 0.0


def slow_soft_iou(logits, label, ignore_index, mass_weighting=True, epsilon=1.0):
    p = softmax(upsampled(logits, label.shape[1:]))
    images = []
    for b in range(len(label)):
        valid = label[b] != ignore_index
        if not valid.any():
            continue
        loss = 0.0
        for k in range(p.shape[1]):
            f, g = (label[b] == k)[valid].astype(float), p[b, k][valid]
            both = (f * g).sum()
            iou = (both + epsilon) / ((f + g).sum() - both + epsilon)
            loss += (f.sum() / valid.sum() if mass_weighting else 1 / p.shape[1]) * (1 - iou)
        images.append(loss)
    return sum(images) / len(images) if images else 0.0


def slow_dice(logits, label, ignore_index, epsilon=1.0):
    p = softmax(upsampled(logits, label.shape[1:]))
    valid = label != ignore_index
    classes = []
    for k in range(p.shape[1]):
        f, g = (label == k)[valid].astype(float), p[:, k][valid]
        if f.sum():
            classes.append(1 - (2 * (f * g).sum() + epsilon) / (f.sum() + g.sum() + epsilon))
    return sum(classes) / len(classes) if classes else 0.0


def slow_gradient_sparsity(logits, label, ignore_index, p, epsilon, cutoff):
    """For labels that are whole multiples of the cells."""
    g = softmax(logits.astype(np.float64))
    batch, _, height, width = g.shape
    tall, wide = label.shape[1] // height, label.shape[2] // width

    def labelled(b, i, j):
        return (label[b, i * tall : (i + 1) * tall, j * wide : (j + 1) * wide] != ignore_index).any()

    cost, pairs = 0.0, 0
    for b, i, j in np.ndindex(batch, height, width):
        for y, x in ((i + 1, j), (i, j + 1)):
            if y < height and x < width and labelled(b, i, j) and labelled(b, y, x):
                pairs += 1
                for jump in abs(g[b, :, y, x] - g[b, :, i, j]):
                    cost += max((jump + epsilon) ** p - epsilon**p - cutoff, 0)
    return cost / pairs if pairs else 0.0


def slow_class_masses(logits, label, ignore_index):
    """True and predicted pixels of each class; for labels that are whole multiples of the cells."""
    p = softmax(logits.astype(np.float64))
    _, num_classes, height, width = p.shape
    tall, wide = label.shape[1] // height, label.shape[2] // width
    true, predicted = np.zeros(num_classes), np.zeros(num_classes)
    for b, i, j in np.ndindex(*label.shape):
        if label[b, i, j] != ignore_index:
            true[label[b, i, j]] += 1
            predicted += p[b, :, i // tall, j // wide]
    return np.stack((true, predicted))

"""Segmentation scores counted pixel by pixel and class by class, in plain Python and NumPy."""

import numpy as np


def confusion(labels, targets, num_classes, ignore_index):
    matrix = [[0] * num_classes for _ in range(num_classes)]
    for label, target in zip(np.ravel(labels).tolist(), np.ravel(targets).tolist(), strict=True):
        if target != ignore_index:
            matrix[target][label] += 1
    return np.array(matrix, dtype=np.int64)


def scores(labels, targets, num_classes, ignore_index):
    labels, targets = np.ravel(labels), np.ravel(targets)
    labels, targets = labels[targets != ignore_index], targets[targets != ignore_index]
    iou, acc = [], []
    for k in range(num_classes):
        both = np.sum((labels == k) & (targets == k))
        either = np.sum((labels == k) | (targets == k))
        true = np.sum(targets == k)
        iou.append(both / either if either else np.nan)
        acc.append(both / true if true else np.nan)
    defined = [value for value in iou if not np.isnan(value)]
    reached = [value for value in acc if not np.isnan(value)]
    return {
        "iou": iou,
        "acc": acc,
        "miou": sum(defined) / len(defined) if defined else np.nan,
        "macc": sum(reached) / len(reached) if reached else np.nan,
        "aacc": np.mean(labels == targets) if len(labels) else np.nan,
    }

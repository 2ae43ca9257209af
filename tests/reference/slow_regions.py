"""FLOOD, SEGMENT and DUST_FILL word for word, with the slips of the pseudo-code fixed; masks and stacks."""

import numpy as np

CELL, BOUNDARY, CLAIMED = 0, 1, 2


def flood(data, mask, y, x):
    stack, filled = [(y, x, False)], 0
    while stack:
        y, x, from_boundary = stack.pop()
        if not (0 <= y < data.shape[0] and 0 <= x < data.shape[1]):
            continue
        if data[y, x] == CELL:
            flag = False
        elif data[y, x] == BOUNDARY and not from_boundary:
            flag = True
        else:
            continue
        data[y, x] = CLAIMED
        mask[y, x] = 1
        filled += 1
        stack += [(y + 1, x, flag), (y - 1, x, flag), (y, x + 1, flag), (y, x - 1, flag)]
    return filled


def segment(boundary, min_size):
    data = np.where(boundary, BOUNDARY, CELL)
    masks = []
    for y in range(data.shape[0]):
        for x in range(data.shape[1]):
            if data[y, x] != CLAIMED:
                mask = np.zeros(data.shape, bool)
                if flood(data, mask, y, x) >= min_size:
                    masks.append(mask)
    return masks


def normalized(vector):
    total = 0.0
    for value in vector:
        total += value
    return [value / total for value in vector]


def l1(a, b):
    total = 0.0
    for one, other in zip(a, b, strict=True):
        total += abs(one - other)
    return total


def dust_fill(probabilities, masks, promote, join, impatience):
    """Returns labels, and for each of the masks and the K promotion masks which pixels ended in it."""
    num_classes, height, width = probabilities.shape
    value = {(y, x): [float(v) for v in probabilities[:, y, x]] for y in range(height) for x in range(width)}
    masks = [mask.copy() for mask in masks]
    count = len(masks)
    stats = []
    for mask in masks:
        total = [0.0] * num_classes
        for y, x in zip(*np.nonzero(mask), strict=True):
            total = [a + b for a, b in zip(total, value[y, x], strict=True)]
        stats.append(total)
    stats += [[float(k == label) for k in range(num_classes)] for label in range(num_classes)]
    masks += [np.zeros((height, width), bool) for _ in range(num_classes)]
    mapping = np.full((height, width), -1)
    for k in range(count):
        mapping[masks[k]] = k

    stack = []
    for y in range(height):
        for x in range(width):
            if mapping[y, x] >= 0:
                continue
            label = int(np.argmax(value[y, x]))
            if value[y, x][label] >= promote[label]:
                mapping[y, x] = count + label
                masks[count + label][y, x] = True
            else:
                stack.append((y, x, 1.0))
    if (mapping < 0).all():
        return probabilities.argmax(0), masks, stats
    swap = []
    while stack:
        while stack:
            y, x, patience = stack.pop()
            best, nearest = None, np.inf
            for v, u in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                if 0 <= v < height and 0 <= u < width and mapping[v, u] >= 0:
                    distance = l1(normalized(value[y, x]), normalized(stats[mapping[v, u]]))
                    if distance < nearest:
                        best, nearest = mapping[v, u], distance
            if best is None:
                swap.append((y, x, patience))
            elif nearest < join * patience:
                mapping[y, x] = best
                masks[best][y, x] = True
                if best < count:
                    stats[best] = [a + b for a, b in zip(stats[best], value[y, x], strict=True)]
            else:
                swap.append((y, x, patience * impatience))
        stack, swap = swap, []
    labels = sum(int(np.argmax(total)) * mask for total, mask in zip(stats, masks, strict=True))
    return labels, masks, stats

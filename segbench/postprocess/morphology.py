"""From boundary probabilities to walls that hold: threshold, clean-up, closing of gaps.

Source: the attention U-Net article, its section on post-processing, and its code
(https://github.com/dmitri-chouchkov/fashion-segmentation). There the outermost pixels are cut off first, since
boundary targets are not defined on them; here they stay and become wall, so that labels keep the image's size.
"""

import cv2
import numpy as np
from numpy.typing import NDArray


def clean_boundary(
    boundary: NDArray[np.floating], threshold: float = 0.1, expand: int = 5
) -> NDArray[np.bool_]:
    """Turns boundary probabilities into walls.

    Args:
        boundary: `(H, W)` probabilities.
        threshold: A pixel above it is boundary.
        expand: Gaps of up to about twice this many pixels are closed; 0 closes none.

    Returns:
        `(H, W)` true on walls: the pixels above the threshold that lie in some 2×2 block of such, the frame of
        the image, and what closes gaps between them.

    Raises:
        ValueError: If the threshold lies outside [0, 1], `expand` is negative, or a probability is NaN.
    """
    if boundary.ndim != 2 or 0 in boundary.shape:
        raise ValueError(f"boundary must be (H, W) and not empty, got {boundary.shape}")
    if not 0 <= threshold <= 1 or expand < 0:
        raise ValueError(f"threshold={threshold} must lie in [0, 1] and expand={expand} must not be negative")
    if np.isnan(boundary).any():
        raise ValueError("boundary holds probabilities that are not a number: look at the model's output")
    walls = keep_blocks(boundary > threshold)
    walls[[0, -1], :] = True
    walls[:, [0, -1]] = True
    return walls | hollow(close_gaps(walls, expand)) if expand else walls


def keep_blocks(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Keeps a pixel only if some 2×2 block that contains it is all true.

    Args:
        mask: `(H, W)`.

    Returns:
        `(H, W)`.
    """
    blocks = mask[:-1, :-1] & mask[1:, :-1] & mask[:-1, 1:] & mask[1:, 1:]
    kept = np.zeros_like(mask)
    height, width = blocks.shape
    for y in (0, 1):
        for x in (0, 1):
            kept[y : y + height, x : x + width] |= blocks
    return kept


def close_gaps(mask: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """Grows by a square and shrinks by the smaller diamond, so that what is near grows together and stays so.

    Args:
        mask: `(H, W)`.
        radius: Of both; the square has sides of `2·radius + 1`, the diamond all pixels within that many steps.

    Returns:
        `(H, W)`; contains `mask`.
    """
    # Growing may leave the image, and comes back from there when shrinking.
    grown = cv2.dilate(np.pad(mask.astype(np.uint8), 2 * radius), np.ones((2 * radius + 1,) * 2, np.uint8))
    # The diamond is a cross as many times as its radius, which takes fewer steps than all its pixels at once.
    shrunk = cv2.erode(grown, cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3)), iterations=radius)
    inside = slice(2 * radius, -2 * radius)
    return np.asarray(shrunk[inside, inside] > 0)


def hollow(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Clears pixels deep inside, so that thick walls become two thin ones with cells in between.

    Args:
        mask: `(H, W)`.

    Returns:
        `(H, W)`: false also where all 12 other pixels within two steps are true; outside counts as true.
    """
    steps = np.abs(np.arange(-2, 3))
    around = (steps[:, None] + steps <= 2).astype(np.uint8)
    around[2, 2] = 0
    deep = cv2.erode(mask.astype(np.uint8), around, borderType=cv2.BORDER_CONSTANT, borderValue=1) > 0
    return np.asarray(mask & ~deep)

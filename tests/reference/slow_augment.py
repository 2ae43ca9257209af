"""Resizing a whole picture, then cutting a window out of it, with real numbers."""

import numpy as np


def window_of_resized(picture, factors, start, size):
    """Resizes by two factors, then cuts `size` pixels out, the first at `start`, which may be fractional.

    A pixel is a mixture of the four around its place in the picture; outside, the border is repeated.
    """
    places = [
        (first + np.arange(count) + 0.5) / factor - 0.5
        for first, count, factor in zip(start, size, factors, strict=True)
    ]
    shares = []
    for place, side in zip(places, picture.shape, strict=False):
        share = np.zeros((len(place), side))
        for i, x in enumerate(place):
            low = int(np.floor(x))
            share[i, np.clip(low, 0, side - 1)] += low + 1 - x
            share[i, np.clip(low + 1, 0, side - 1)] += x - low
        shares.append(share)
    return np.einsum("ij,jk...,lk->il...", shares[0], picture.astype(float), shares[1], optimize=True)

"""Patches cut out and put back pixel by pixel."""

import torch


def slow_cut(image, patch_size):
    """`(C, H, W)` → a list of patch vectors in (row, column, channel) order, patches row by row."""
    channels, height, width = image.shape
    return [
        torch.stack(
            [
                image[channel, top + row, left + column]
                for row in range(patch_size)
                for column in range(patch_size)
                for channel in range(channels)
            ]
        )
        for top in range(0, height, patch_size)
        for left in range(0, width, patch_size)
    ]


def slow_fold(vectors, grid, patch_size):
    """Patch vectors → `(C, H, W)`, every patch where it was cut out."""
    channels = len(vectors[0]) // patch_size**2
    image = torch.empty(channels, grid[0] * patch_size, grid[1] * patch_size, dtype=vectors[0].dtype)
    for number, vector in enumerate(vectors):
        top, left = number // grid[1] * patch_size, number % grid[1] * patch_size
        for place, value in enumerate(vector):
            pixel, channel = divmod(place, channels)
            image[channel, top + pixel // patch_size, left + pixel % patch_size] = value
    return image


def slow_raw(vectors, grid, patch_size):
    """Patch vectors → `(C, H, W)`, one pixel after another in reading order, patch boundaries forgotten."""
    channels = len(vectors[0]) // patch_size**2
    pixels = [pixel for vector in vectors for pixel in vector.view(-1, channels)]
    width = grid[1] * patch_size
    image = torch.empty(channels, grid[0] * patch_size, width, dtype=vectors[0].dtype)
    for number, pixel in enumerate(pixels):
        image[:, number // width, number % width] = pixel
    return image

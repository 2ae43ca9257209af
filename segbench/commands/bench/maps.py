"""Logits and labels that look like predictions: regions with boundaries, in place of noise."""

import torch
from torch import Tensor

BISECTIONS = 12


def smooth_logits(
    num_classes: int, grid: tuple[int, int], batch: int = 1, mixed: float = 0.2, seed: int = 0
) -> Tensor:
    """Draws noise and blurs it until the argmax forms regions.

    Args:
        num_classes: `K`.
        grid: `(h, w)`.
        batch: `B`.
        mixed: Share of cells (squares of four neighbours) whose corners differ in their argmax; met roughly.
        seed: Another one, other maps.

    Returns:
        `(B, K, h, w)` with mean 0 and standard deviation 3.
    """
    generator = torch.Generator().manual_seed(seed)
    spectrum = torch.fft.fft2(torch.randn(batch, num_classes, *grid, generator=generator))
    square = torch.fft.fftfreq(grid[0])[:, None] ** 2 + torch.fft.fftfreq(grid[1]) ** 2  # (h, w)
    narrow, wide = 0.0, max(grid) / 2  # standard deviation of the blur, in cells
    logits: Tensor = torch.fft.ifft2(spectrum).real
    for _ in range(BISECTIONS):
        sigma = (narrow + wide) / 2
        blurred = torch.fft.ifft2(spectrum * torch.exp(-2 * (torch.pi * sigma) ** 2 * square)).real
        logits = 3 * ((blurred - blurred.mean()) / blurred.std()).contiguous()
        narrow, wide = (sigma, wide) if mixed_share(logits) > mixed else (narrow, sigma)
    return logits


def mixed_share(logits: Tensor) -> float:
    """Counts the cells in which something happens.

    Args:
        logits: `(B, K, h, w)`.

    Returns:
        Share of squares of four neighbours whose argmax is not the same.
    """
    labels = logits.argmax(1)
    corners = torch.stack((labels[:, :-1, :-1], labels[:, :-1, 1:], labels[:, 1:, :-1], labels[:, 1:, 1:]))
    return float((corners != corners[0]).any(0).float().mean())


def block_labels(
    num_classes: int, size: tuple[int, int], batch: int = 1, seed: int = 0, ignore_index: int = 255
) -> Tensor:
    """Draws labels in squares of 32 pixels, a tenth of them unlabelled.

    Args:
        num_classes: `K`.
        size: `(H, W)`.
        batch: `B`.
        seed: Another one, other labels.
        ignore_index: Label of what is unlabelled.

    Returns:
        `(B, H, W)`, uint8 where that holds all labels, otherwise int64.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, -(-size[0] // 32), -(-size[1] // 32))
    narrow = num_classes <= 256 and 0 <= ignore_index <= 255
    dtype = torch.uint8 if narrow else torch.int64
    labels = torch.randint(num_classes, shape, generator=generator, dtype=dtype)
    labels[torch.rand(shape, generator=generator) < 0.1] = ignore_index
    return labels.repeat_interleave(32, 1).repeat_interleave(32, 2)[:, : size[0], : size[1]].contiguous()

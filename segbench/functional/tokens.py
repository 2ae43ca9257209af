"""Between images, token sequences and maps."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

Resampling = Literal["bicubic-antialias", "bicubic", "bilinear"]


def map_to_tokens(feature_map: Tensor) -> Tensor:
    """Flattens a map row by row.

    Args:
        feature_map: `(B, C, h, w)`.

    Returns:
        Tokens `(B, N, C)`.
    """
    return feature_map.flatten(2).transpose(1, 2)


def tokens_to_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Folds tokens back into a map.

    Args:
        tokens: `(B, N, C)` in rows.
        grid: `(h, w)` with `h · w = N`.

    Returns:
        The map `(B, C, h, w)`.
    """
    return tokens.transpose(1, 2).reshape(len(tokens), -1, *grid)


def pad_to_multiple(image: Tensor, multiple: int | tuple[int, int], value: float = 0.0) -> Tensor:
    """Pads at the bottom and right, as Segmenter does, until both sides are whole multiples.

    Args:
        image: `(..., H, W)`.
        multiple: One number for both sides, or `(height, width)`.
        value: What the new pixels hold.

    Returns:
        The padded image; the very same tensor when nothing is missing.
    """
    rows, columns = (multiple, multiple) if isinstance(multiple, int) else multiple
    bottom, right = -image.shape[-2] % rows, -image.shape[-1] % columns
    return F.pad(image, (0, right, 0, bottom), value=value) if bottom or right else image


def resample_grid(
    embedding: Tensor, grid: tuple[int, int], new_grid: tuple[int, int], resampling: Resampling
) -> Tensor:
    """Resamples a learned position embedding from one grid to another.

    Grids are compared, not token counts: 16×64 and 32×32 hold as many tokens and are not the same.

    Args:
        embedding: `(1, N, C)`, patches only.
        grid: `(h, w)` of the embedding.
        new_grid: `(h, w)` wanted.
        resampling: Interpolation; official Segmenter is bilinear, timm ≥ 0.9 bicubic with antialiasing.

    Returns:
        The embedding `(1, N', C)` of the new grid, computed in float32.
    """
    if tuple(grid) == tuple(new_grid):
        return embedding
    mode = resampling.split("-")[0]
    resized = F.interpolate(
        tokens_to_map(embedding.float(), grid),
        size=new_grid,
        mode=mode,
        align_corners=False,
        antialias=resampling.endswith("antialias"),
    )
    return map_to_tokens(resized).to(embedding.dtype)

"""Between images, token sequences and maps."""

import torch
import torch.nn.functional as F
from torch import Tensor

from segbench.functional.resize import Resampling, resampling_matrix
from segbench.functional.tracing import is_free


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
    return tokens.transpose(1, 2).reshape(tokens.shape[0], -1, *grid)


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
    if not is_free(bottom, right) and not (bottom or right):
        return image
    return F.pad(image, (0, right, 0, bottom), value=value)


def crop(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Cuts off what lies beyond, at the bottom and right: the inverse of `pad_to_multiple`.

    Args:
        image: `(..., H, W)`.
        size: `(height, width)`, at most that of the image.

    Returns:
        `(..., height, width)`.
    """
    if is_free(*size):  # a slice asks whether there is anything to cut off, and holds the graph to the answer
        rows, columns = (torch.arange(side, device=image.device) for side in size)
        return image.index_select(-2, rows).index_select(-1, columns)
    return image[..., : size[0], : size[1]]


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
    if is_free(*new_grid):  # exporters lack some of interpolate's kinds; matrices they all know
        rows, columns = (
            resampling_matrix(size, new, resampling, embedding.device)
            for size, new in zip(grid, new_grid, strict=True)
        )
        cells = embedding.float().reshape(1, *grid, -1)  # (1, h, w, C)
        moved = torch.einsum("yh,bhwc,xw->byxc", rows, cells, columns)
        return moved.flatten(1, 2).to(embedding.dtype)
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

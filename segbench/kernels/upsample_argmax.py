"""Labels of bilinearly upsampled logits, tile by tile: the upsampled logits never lie in memory whole."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from segbench.functional.axis_map import AxisMap, bilinear_map, tiles


def upsample_argmax(
    logits: Tensor, size: tuple[int, int], *, backend: Literal["auto", "plain", "chunked"] = "auto"
) -> Tensor:
    """Computes the class of every pixel after bilinear upsampling with `align_corners=False`.

    Of classes that tie, the lowest index wins. Logits below float32 are interpolated in float32.

    Args:
        logits: `(B, K, h, w)` at any stride.
        size: `(H, W)` of the labels; smaller than the logits is allowed too.
        backend: `chunked` needs little memory, `plain` is the reference in one line; `auto` is `chunked`.

    Returns:
        `(B, H, W)` labels, uint8 for up to 256 classes and int64 for more.

    Raises:
        ValueError: If the logits have no four dimensions or the size is not positive.
    """
    if logits.dim() != 4 or not logits.is_floating_point():
        raise ValueError(
            f"logits must be a float tensor (B, K, h, w), got {logits.dtype} {tuple(logits.shape)}"
        )
    if min(size) < 1:
        raise ValueError(f"size must be two positive numbers (H, W), got {size}")
    if backend == "plain":
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        labels = F.interpolate(logits, size, mode="bilinear", align_corners=False).max(1).indices
        return labels.to(label_dtype(logits.shape[1]))
    rows, columns = bilinear_map(logits.shape[2], size[0]), bilinear_map(logits.shape[3], size[1])
    labels = logits.new_empty((len(logits), *size), dtype=label_dtype(logits.shape[1]))
    for image, result in zip(logits, labels, strict=True):
        argmax_tiles(image.transpose(0, 1), rows, columns, out=result)
    return labels


def argmax_tiles(
    cells: Tensor, rows: AxisMap, columns: AxisMap, *, out: Tensor, tile_bytes: int | None = None
) -> Tensor:
    """Computes the class of every pixel of one image whose logits are given by two maps.

    Args:
        cells: `(h, K, w)` low-resolution logits.
        rows: Map from `h` cells to the rows of the labels.
        columns: Map from `w` cells to the columns of the labels.
        out: `(H, W)` integer tensor that receives the labels.
        tile_bytes: Size of a tile, see `segbench.functional.axis_map.tiles`.

    Returns:
        `out`.
    """
    for tile in tiles(cells, rows, columns, tile_bytes):
        # max, not argmax: both give the first of equal classes, and max is several times faster on a CPU
        out[tile.rows, tile.columns] = tile.values.max(1).indices
    return out


def label_dtype(num_classes: int) -> torch.dtype:
    """Chooses the type of labels.

    Args:
        num_classes: Number of classes.

    Returns:
        uint8 where that holds every class, otherwise int64.
    """
    return torch.uint8 if num_classes <= 256 else torch.int64

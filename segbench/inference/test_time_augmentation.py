"""Segments images in several scales and their mirror images, whose probabilities are averaged.

The procedure is Segmenter's (https://arxiv.org/abs/2105.05633,
https://github.com/rstrudel/segmenter/blob/20d1bfad354165ee45c3f65972a4d9c131f58d53/segm/model/utils.py) on the
views of MMSegmentation's `MultiScaleFlipAug`: a view is resized, then mirrored, then read in windows; its
logits are resized to the labels' size, mirrored back and only then turned into probabilities. There a map of
probabilities at full size is kept; here all views stay at low resolution and are averaged tile by tile.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from segbench.functional.separable_resampler import Tile, rectangle
from segbench.inference import sliding_window
from segbench.inference.sliding_window import WHOLE, Forward, TiledLogits, Windows, mosaics
from segbench.kernels.upsample_argmax import label_dtype

# Probabilities of a tile; a softmax holds three such. In the cache of a core; on a GPU launches do not count.
TILE_BYTES_CPU = 1 << 20
TILE_BYTES_DEVICE = 1 << 26


class Views(NamedTuple):
    """How often, and how, an image is seen.

    Attributes:
        scales: Factors of `windows.resize`, or of the image's own size.
        flip: Whether each scale is seen mirrored as well.
        windows: How each view is cut up. With several views, a batch of windows is of one view of one image.
    """

    scales: Sequence[float] = (1.0,)
    flip: bool = False
    windows: Windows = WHOLE


ONE_VIEW = Views()


@torch.no_grad()
def segment(image: Tensor, forward: Forward, views: Views = ONE_VIEW) -> Tensor:
    """Labels every pixel by the class of the highest probability, on average over all views.

    One view alone is what `segbench.inference.sliding_window.segment` does, without any softmax.

    Args:
        image: `(B, 3, H, W)` RGB, uint8 or float on the same 0..255 scale.
        forward: Predicts a batch of windows.
        views: How the image is seen.

    Returns:
        `(B, H, W)` labels, uint8 for up to 256 classes and int64 for more; the lowest of equal classes wins.

    Raises:
        ValueError: If an argument or what `forward` returned does not fit.
    """
    check_scales(views.scales)
    if len(views.scales) == 1 and not views.flip:
        return sliding_window.segment(image, forward, _scaled(image, views.windows, views.scales[0]))
    results = []
    for one in torch.split(image, 1):
        seen = predict_views(one, forward, views)
        cells, rows, columns = seen[0]
        labels = cells.new_empty((len(rows.source), len(columns.source)), dtype=label_dtype(cells.shape[1]))
        for tile in probability_tiles(seen, views.windows.tile_bytes):
            labels[tile.rows, tile.columns] = tile.values.max(1).indices
        results.append(labels)
    return torch.stack(results)


def predict_views(image: Tensor, forward: Forward, views: Views) -> list[TiledLogits]:
    """Predicts all views of one image.

    Args:
        image: `(1, 3, H, W)`.
        forward: As in `segment`.
        views: As in `segment`.

    Returns:
        A mosaic of each scale, and of its mirror image behind it, all of one output size.

    Raises:
        ValueError: As in `segment`.
    """
    check_scales(views.scales)
    seen: list[TiledLogits] = []
    for scale, mirrored in product(views.scales, (False, True) if views.flip else (False,)):
        seen += mosaics(image, forward, _scaled(image, views.windows, scale), mirrored)
    return seen


def probability_tiles(seen: Sequence[TiledLogits], tile_bytes: int | None = None) -> Iterator[Tile]:
    """Averages the probabilities of several views, one tile at a time.

    Args:
        seen: Views of one image, at least one.
        tile_bytes: Size of a tile; by default it suits the device.

    Yields:
        Tiles `(rows, K, columns)` that cover the result once.
    """
    cells, rows, columns = seen[0]
    default = TILE_BYTES_CPU if cells.device.type == "cpu" else TILE_BYTES_DEVICE
    side = max(1, math.isqrt((tile_bytes or default) // (4 * cells.shape[1])))
    height, width = len(rows.source), len(columns.source)
    for top, left in product(range(0, height, side), range(0, width, side)):
        down, across = slice(top, min(top + side, height)), slice(left, min(left + side, width))
        total = rectangle(*seen[0], down, across).softmax(1)
        for view in seen[1:]:
            total += rectangle(*view, down, across).softmax(1)
        yield Tile(down, across, total.div_(len(seen)))


def check_scales(scales: Sequence[float]) -> None:
    """Refuses scales that no image can have.

    Args:
        scales: As in `Views`.

    Raises:
        ValueError: If there is none, or one is not positive.
    """
    if not len(scales) or not all(0 < scale < math.inf for scale in scales):
        raise ValueError(f"scales must be one or more positive factors, got {list(scales)}")


def _scaled(image: Tensor, windows: Windows, scale: float) -> Windows:
    """Scales the limits of `resize`, or the image's size, as `MultiScaleFlipAug` does; labels stay as large."""
    if windows.resize is None and scale == 1:
        return windows
    long, short = windows.resize or (max(image.shape[-2:]), min(image.shape[-2:]))
    limits = max(1, int(long * scale)), max(1, int(short * scale))
    return windows._replace(resize=limits, out_size=windows.out_size or (image.shape[-2], image.shape[-1]))

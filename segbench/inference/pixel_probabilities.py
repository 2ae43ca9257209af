"""Probabilities of every pixel at full size, for what looks at whole images: post-processing.

Windows, scales and flips are those of `segbench.inference.test_time_augmentation`. Boundary logits follow the
class logits as one more channel, so that both are treated alike.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from segbench.functional.boundary import boundary_target
from segbench.inference.sliding_window import Forward, TiledLogits
from segbench.inference.test_time_augmentation import ONE_VIEW, Views, predict_views, probability_tiles


class PixelProbabilities(NamedTuple):
    """What is known of one image; takes 4·(K + 1)·H·W bytes.

    Attributes:
        probabilities: `(K, H, W)` float32, their sum 1 in every pixel.
        boundary: `(H, W)` float32 in [0, 1], of the boundary head; without one, 1 on both sides of every change
            of the argmax class, and 0 elsewhere.
    """

    probabilities: Tensor
    boundary: Tensor


@torch.no_grad()
def predict_proba(
    image: Tensor, forward: Forward, num_classes: int, views: Views = ONE_VIEW
) -> Iterator[PixelProbabilities]:
    """Computes probabilities as evaluation does, and keeps them.

    Args:
        image: As in `segbench.inference.test_time_augmentation.segment`.
        forward: As there; its logits `(n, K or K + 1, h, w)` may have those of the boundary last.
        num_classes: `K`.
        views: As there.

    Yields:
        One image at a time, so that no two need be held.

    Raises:
        ValueError: As there, or if there are other than K or K + 1 channels.
    """
    tile_bytes = views.windows.tile_bytes
    for one in torch.split(image, 1):
        seen = predict_views(one, forward, views)
        channels = seen[0].cells.shape[1]
        if channels not in (num_classes, num_classes + 1):
            raise ValueError(
                f"forward returned {channels} channels; give {num_classes}, or one more of boundary"
            )
        classes = [view._replace(cells=view.cells[:, :num_classes]) for view in seen]
        probabilities = _average(classes, num_classes, tile_bytes)
        if channels == num_classes:
            yield PixelProbabilities(probabilities, label_edges(probabilities.argmax(0)))
            continue
        # The sigmoid of z is what the softmax of (0, z) gives the second of two classes.
        either = [view._replace(cells=_beside_zero(view.cells[:, num_classes:])) for view in seen]
        yield PixelProbabilities(probabilities, _average(either, 2, tile_bytes)[1])


def label_edges(labels: Tensor) -> Tensor:
    """Marks both sides of every change of label.

    Args:
        labels: `(H, W)` classes.

    Returns:
        `(H, W)` float32, 1 where one of the four neighbours differs, else 0; 0 on the frame of the image.
    """
    edges, _ = boundary_target(labels[None].int(), ignore_index=-1)
    return edges[0].float()


def _average(seen: Sequence[TiledLogits], channels: int, tile_bytes: int | None) -> Tensor:
    """Puts the tiles of the averaged probabilities together: `(channels, H, W)`."""
    cells, rows, columns = seen[0]
    result = cells.new_empty((channels, len(rows.source), len(columns.source)), dtype=torch.float32)
    for tile in probability_tiles(seen, tile_bytes):
        result[:, tile.rows, tile.columns] = tile.values.transpose(0, 1)
    return result


def _beside_zero(logits: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(logits), logits], dim=1)  # (h, 2, w)

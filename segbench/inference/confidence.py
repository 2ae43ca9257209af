"""How sure a model is of each pixel: its most probable classes, and the entropy of its probabilities."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from segbench.inference.sliding_window import Forward
from segbench.inference.test_time_augmentation import ONE_VIEW, Views, predict_views, probability_tiles
from segbench.kernels.upsample_argmax import label_dtype


class Confidence(NamedTuple):
    """What is known of each pixel beside its label.

    Attributes:
        classes: `(B, k, H, W)` most probable classes, the first of which is the label where none are equal.
        probabilities: `(B, k, H, W)` float32 of these.
        entropy: `(B, H, W)` float32 as a share of the highest possible, in [0, 1].
    """

    classes: Tensor
    probabilities: Tensor
    entropy: Tensor


@torch.no_grad()
def confidence(image: Tensor, forward: Forward, views: Views = ONE_VIEW, *, top: int = 1) -> Confidence:
    """Computes probabilities as evaluation does and keeps of each pixel what is worth showing.

    Args:
        image: As in `segbench.inference.test_time_augmentation.segment`.
        forward: As there.
        views: As there; a smaller `out_size` saves nearly all of the time.
        top: `k`, how many classes are kept.

    Returns:
        The classes, probabilities and entropies.

    Raises:
        ValueError: If there are fewer than `top` classes, or as there.
    """
    results = []
    for one in torch.split(image, 1):
        seen = predict_views(one, forward, views)
        cells, rows, columns = seen[0]
        size, num_classes = (len(rows.source), len(columns.source)), cells.shape[1]
        if not 1 <= top <= num_classes:
            raise ValueError(f"top is {top}; choose 1 to {num_classes}, the number of classes")
        classes = cells.new_empty((top, *size), dtype=label_dtype(num_classes))
        probabilities = cells.new_empty((top, *size), dtype=torch.float32)
        entropy = cells.new_empty(size, dtype=torch.float32)
        for tile in probability_tiles(seen, views.windows.tile_bytes):
            best = tile.values.topk(top, dim=1)
            classes[:, tile.rows, tile.columns] = best.indices.transpose(0, 1).to(classes.dtype)
            probabilities[:, tile.rows, tile.columns] = best.values.transpose(0, 1).float()
            entropy[tile.rows, tile.columns] = torch.special.entr(tile.values).sum(1).float()
        results.append(Confidence(classes, probabilities, entropy.div_(math.log(max(num_classes, 2)))))
    return Confidence(*(torch.stack(part) for part in zip(*results, strict=True)))

"""DUST_FILL: the pixels between regions join the neighbouring region that is most like them.

Source: the attention U-Net article, algorithm DUST_FILL, and its code
(https://github.com/dmitri-chouchkov/fashion-segmentation). Order matters, since every joined pixel is seen by
the next one and changes its region's statistics: pixels are stacked in raster order and taken from the top,
neighbours are asked below, above, right, left, the first of the nearest wins. Pixels that border no mask go
unchanged from stack to stack there; here they rest until they border one, which gives the same labels in a time
that grows with the pixels alone, even where next to nothing is sure.

Slips of the pseudo-code are corrected as in the code: a promoted pixel is mapped to the mask of its class, not
to the class. Where there is neither region nor promotion, which would loop for ever, every pixel keeps its own
best class.
"""

import math
from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from segbench.kernels import native
from segbench.kernels.backends import choose_backend
from segbench.kernels.regions import Filled, dust_fill_native

MOST_TURNS = 1000  # times that a pixel beside a region may be turned away
_DONE, _NOT_A_PROBABILITY, _NO_MEMORY, _NO_SEED = range(4)


def dust_fill(
    probabilities: NDArray[np.float32],
    regions: NDArray[np.integer],
    *,
    promote: float | Sequence[float] = 0.5,
    join: float = 0.05,
    impatience: float = 1.5,
    backend: Literal["auto", "plain", "native"] = "auto",
) -> NDArray[np.int64]:
    """Gives each region one label, and each pixel outside of them one region.

    Args:
        probabilities: `(K, H, W)`, at least 0, not all 0 in a pixel outside of regions nor in a whole region;
            compared after division by their sum.
        regions: `(H, W)` ids from 0, −1 where a pixel is in none, as `segbench.postprocess.segment.segment`
            gives them.
        promote: From this probability on a pixel outside of all regions keeps its best class; one number, or
            one for each class.
        join: L1 distance, 0 to 2, between the probabilities of pixel and region below which the pixel joins.
        impatience: Factor of `join` for each time that a pixel beside a region was turned away.
        backend: `native` is C, `plain` needs no compiler.

    Returns:
        `(H, W)` classes.

    Raises:
        ValueError: If shapes do not fit, an option is out of range, or a probability is NaN.
    """
    filled = fill_masks(
        probabilities, regions, promote=promote, join=join, impatience=impatience, backend=backend
    )
    return filled.labels


def fill_masks(
    probabilities: NDArray[np.float32],
    regions: NDArray[np.integer],
    *,
    promote: float | Sequence[float] = 0.5,
    join: float = 0.05,
    impatience: float = 1.5,
    backend: Literal["auto", "plain", "native"] = "auto",
) -> Filled:
    """Does the same and says which pixel ended in which region.

    Args:
        probabilities: As in `dust_fill`.
        regions: As in `dust_fill`.
        promote: As in `dust_fill`.
        join: As in `dust_fill`.
        impatience: As in `dust_fill`.
        backend: As in `dust_fill`.

    Returns:
        Masks and labels.

    Raises:
        ValueError: As in `dust_fill`.
    """
    probabilities = np.ascontiguousarray(probabilities, np.float32)
    ids = np.ascontiguousarray(regions, np.int32)
    thresholds = _check(probabilities, ids, promote, join, impatience)
    if ids.size == 0:
        return Filled(ids, np.empty(ids.shape, np.int64))
    offered = ["native", "plain"] if native.available() else ["plain"]
    fill = {"native": dust_fill_native, "plain": _python}[choose_backend(backend, offered)]
    status, filled = fill(probabilities, ids, thresholds, join, impatience)
    if status == _NOT_A_PROBABILITY:
        raise ValueError(
            "probabilities must be numbers of at least 0, in every pixel one above: look at the model"
        )
    if status == _NO_MEMORY:
        raise MemoryError(f"no memory to fill {ids.shape[1]}x{ids.shape[0]} pixels")
    if status == _NO_SEED:
        best = probabilities.argmax(0)
        return Filled(best.astype(np.int32), np.asarray(best, np.int64))
    return filled


def _python(
    probabilities: NDArray[np.float32],
    regions: NDArray[np.int32],
    promote: NDArray[np.float64],
    join: float,
    impatience: float,
) -> tuple[int, Filled]:
    """Does the same without a compiler: slow, though it loops over pixels outside of regions alone."""
    num_classes, height, width = probabilities.shape
    vectors = probabilities.reshape(num_classes, -1).T.astype(np.float64)  # (H·W, K)
    mapping = regions.ravel().astype(np.int64)
    if not ((vectors >= 0) & (vectors <= 1e30)).all() or not (vectors.sum(1) > 0)[regions.ravel() < 0].all():
        return _NOT_A_PROBABILITY, Filled(regions, mapping)
    num_regions = int(regions.max()) + 1
    stats = np.zeros((num_regions + num_classes, num_classes))
    np.add.at(stats, mapping[mapping >= 0], vectors[mapping >= 0])
    stats[num_regions:] = np.eye(num_classes)
    if not (stats.sum(1) > 0)[mapping[mapping >= 0]].all():
        return _NOT_A_PROBABILITY, Filled(regions, mapping)
    unit = [row / (_sum(row) or 1) for row in stats]  # a number that no region has sums to 0

    loose = np.flatnonzero(mapping < 0)
    best = vectors[loose].argmax(1)
    sure = vectors[loose, best] >= promote[best]
    mapping[loose[sure]] = num_regions + best[sure]
    if (mapping < 0).all():
        return _NO_SEED, Filled(regions, mapping)

    def around(pixel: int) -> list[int]:
        y, x = divmod(pixel, width)
        below_above = [pixel + width] * (y + 1 < height) + [pixel - width] * (y > 0)
        return below_above + [pixel + 1] * (x + 1 < width) + [pixel - 1] * (x > 0)

    waiting = loose[~sure].tolist()
    vector = {pixel: vectors[pixel] / _sum(vectors[pixel]) for pixel in waiting}
    patience = dict.fromkeys(waiting, 1.0)
    # The article's stacks hold all that wait, in raster order, first backwards, then forwards and so on. Only
    # those beside a mask can change anything.
    active = [pixel for pixel in waiting if any(mapping[other] >= 0 for other in around(pixel))]
    direction = -1
    while active:
        turns = [direction * pixel for pixel in active]
        heapify(turns)
        called, active = set(active), []
        while turns:
            pixel = direction * heappop(turns)
            masks = [int(mapping[other]) for other in around(pixel)]
            distances = [(_sum(abs(vector[pixel] - unit[mask])), mask) for mask in masks if mask >= 0]
            distance, mask = min(distances, key=lambda pair: pair[0])  # the first of equal ones
            if not distance < join * patience[pixel]:
                patience[pixel] *= impatience
                active.append(pixel)
                continue
            mapping[pixel] = mask
            if mask < num_regions:
                stats[mask] += vectors[pixel]
                unit[mask] = stats[mask] / _sum(stats[mask])
            for other in around(pixel):
                if mapping[other] >= 0 or other in called:
                    continue
                called.add(other)
                if direction * (other - pixel) > 0:
                    heappush(turns, direction * other)
                else:
                    active.append(other)
        direction = -direction
    labels = stats.argmax(1)[mapping].reshape(height, width)
    return _DONE, Filled(mapping.reshape(height, width).astype(np.int32), labels)


def _sum(vector: NDArray[np.float64]) -> float:
    """Adds from left to right, which `np.sum` does not: a last bit may decide between two regions."""
    return float(np.add.accumulate(vector)[-1])


def check_options(
    promote: float | Sequence[float], join: float, impatience: float, num_classes: int | None = None
) -> NDArray[np.float64]:
    """Refuses options that are out of range, or with which a pixel would wait for ever or nearly so.

    Args:
        promote: As in `dust_fill`.
        join: As in `dust_fill`.
        impatience: As in `dust_fill`.
        num_classes: `K`; None where it is not known yet.

    Returns:
        `promote` as an array of one number or several.

    Raises:
        ValueError: If one is out of range.
    """
    if not join > 0 or not impatience > 1:
        raise ValueError(
            f"join={join} must be above 0 and impatience={impatience} above 1, or filling never ends"
        )
    # The largest distance is 2, and one turn may be lost to rounding.
    turns = max(0.0, math.log(2) - math.log(join)) / math.log(impatience)
    if turns > MOST_TURNS:
        raise ValueError(
            f"join={join} and impatience={impatience} would turn a pixel away {turns:,.0f} times, which takes"
            f" too long; give larger ones: {MOST_TURNS:,} times is the most"
        )
    thresholds = np.array(promote, np.float64)
    if thresholds.ndim > 1 or thresholds.size < 1 or np.isnan(thresholds).any():
        raise ValueError(f"promote must be one number, or one for each class; got {promote}")
    if num_classes is not None and thresholds.size not in (1, num_classes):
        raise ValueError(f"promote must be one number or {num_classes}, one for each class; got {promote}")
    return thresholds


def _check(
    probabilities: NDArray[np.float32],
    regions: NDArray[np.integer],
    promote: float | Sequence[float],
    join: float,
    impatience: float,
) -> NDArray[np.float64]:
    if probabilities.ndim != 3 or len(probabilities) < 1 or probabilities.shape[1:] != regions.shape:
        raise ValueError(
            f"probabilities must be (K, H, W) and regions (H, W), got {probabilities.shape}, {regions.shape}"
        )
    if regions.size and regions.max() >= regions.size:
        raise ValueError(
            f"regions must be numbered from 0 on, and have {regions.max()} in {regions.size} pixels"
        )
    thresholds = check_options(promote, join, impatience, len(probabilities))
    return np.ascontiguousarray(np.broadcast_to(thresholds, len(probabilities)))

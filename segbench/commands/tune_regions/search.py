"""Which parameters of the region post-processing are best, and what they gain on images that had no say.

Parameters are drawn at random from a grid (https://www.jmlr.org/papers/v13/bergstra12a.html). The gain over the
argmax class is that of two folds: each half of the images is labelled with what was best on the other. Its
interval is that of a paired bootstrap over images, the choice of parameters held fixed.
"""

from collections.abc import Mapping
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segbench.postprocess.regions import Regions

GRID: Mapping[str, tuple[float, ...]] = {
    "threshold": (0.05, 0.1, 0.2, 0.3, 0.5, 0.7),
    "expand": (0, 1, 2, 3, 5, 8),
    "min_size": (5, 11, 25, 50, 100, 200),
    "promote": (0.3, 0.5, 0.7, 0.9, 1.1),  # nothing reaches 1.1
    "join": (0.02, 0.05, 0.1, 0.2, 0.4),
    "impatience": (1.1, 1.25, 1.5, 2.0, 3.0),
}
RESAMPLES = 2000


class Counts(NamedTuple):
    """Pixels of every image and class, enough for IoU; 64-bit integers.

    Attributes:
        true: `(n, K)` pixels of each class.
        predicted: `(n, T + 1, K)` labelled pixels given each class: by argmax first, then by T trials.
        hit: `(n, T + 1, K)` those of them that are right.
    """

    true: NDArray[np.int64]
    predicted: NDArray[np.int64]
    hit: NDArray[np.int64]


class Gain(NamedTuple):
    """What post-processing changes on images that its parameters were not chosen on; fractions.

    Attributes:
        raw: mIoU of the argmax classes.
        regions: mIoU with, in each half, what was best on the other.
        low: 2.5 % quantile of the difference over resampled images.
        high: 97.5 % quantile.
        chosen: The two trials, by number.
    """

    raw: float
    regions: float
    low: float
    high: float
    chosen: tuple[int, int]


def draw_trials(trials: int, seed: int) -> list[dict[str, float]]:
    """Draws parameters of `Regions`, no two sets alike.

    Args:
        trials: How many sets.
        seed: Another seed, other sets.

    Returns:
        The published defaults first.

    Raises:
        ValueError: If there are not so many.
    """
    most = int(np.prod([len(values) for values in GRID.values()]))
    if not 1 <= trials <= most:
        raise ValueError(f"trials is {trials}; give 1 to {most}, the number of sets in the grid")
    defaults = Regions()
    published = {name: getattr(defaults, name) for name in GRID}
    places = np.unravel_index(np.random.default_rng(seed).permutation(most), [len(v) for v in GRID.values()])
    drawn = (
        {name: values[place] for (name, values), place in zip(GRID.items(), one, strict=True)}
        for one in zip(*places, strict=True)
    )
    return [published, *islice((one for one in drawn if one != published), trials - 1)]


def miou(counts: Counts, weights: NDArray[np.integer] | None = None) -> NDArray[np.float64]:
    """Computes the mean IoU of the sum over images, as `segbench.metrics.segmentation.scores` does.

    Args:
        counts: Of `n` images.
        weights: `(…, n)` how often each image counts; once by default.

    Returns:
        `(…, T + 1)`; classes that occur neither in truth nor in prediction are left out of the mean.
    """
    if weights is None:
        weights = np.ones(len(counts.true), np.int64)
    # As float64, which is exact below 2^53 and fast; (…, K), (…, T + 1, K), (…, T + 1, K).
    true, predicted, hit = (np.tensordot(weights.astype(float), part.astype(float), axes=1) for part in counts)
    union = true[..., None, :] + predicted - hit
    iou = np.divide(hit, union, out=np.full(hit.shape, np.nan), where=union > 0)
    there = np.maximum((union > 0).sum(-1), 1)
    return np.asarray(np.nansum(iou, -1) / there, np.float64)


def two_fold_gain(counts: Counts, seed: int) -> Gain:
    """Chooses on one half what is scored on the other, and the reverse.

    Args:
        counts: Of two images or more.
        seed: Decides on halves and resampling.

    Returns:
        The gain over the argmax classes, with its interval.

    Raises:
        ValueError: If there is only one image.
    """
    number = len(counts.true)
    if number < 2:
        raise ValueError(f"{number} image cannot be halved to choose on one half and score on the other")
    rng = np.random.default_rng(seed)
    halves = np.array_split(rng.permutation(number), 2)
    best = [1 + int(miou(_of(counts, half))[1:].argmax()) for half in halves]
    columns = np.empty(number, np.int64)
    columns[halves[0]], columns[halves[1]] = best[1], best[0]
    rows = np.arange(number)
    pair = Counts(  # (n, 2, K): raw, and with the other half's best
        counts.true,
        *(np.stack([part[:, 0], part[rows, columns]], 1) for part in (counts.predicted, counts.hit)),
    )
    raw, regions = miou(pair)
    resampled = rng.multinomial(number, np.full(number, 1 / number), RESAMPLES)
    differences = np.diff(miou(pair, resampled), axis=1)[:, 0]
    low, high = np.quantile(differences, [0.025, 0.975])
    return Gain(float(raw), float(regions), float(low), float(high), (best[0] - 1, best[1] - 1))


def _of(counts: Counts, images: NDArray[np.int64]) -> Counts:
    return Counts(*(part[images] for part in counts))

"""What must hold of regions and masks whatever the order of the stacks; nothing here floods or fills."""

import numpy as np
import pytest

from segbench.kernels import native
from segbench.postprocess.dust_fill import dust_fill, fill_masks
from segbench.postprocess.segment import segment

BACKENDS = [
    pytest.param("native", marks=pytest.mark.skipif(not native.available(), reason="no C compiler")),
    "plain",
]
CASES = 300


def scenes(seed):
    rng = np.random.default_rng(seed)
    for _ in range(CASES):
        num_classes, height, width = rng.integers(1, 6), rng.integers(1, 14), rng.integers(1, 14)
        boundary = rng.random((height, width)) < rng.choice([0, 0.1, 0.3, 0.6, 0.9, 1])
        alpha = np.full(num_classes, rng.choice([0.2, 1.0, 5.0]))
        probabilities = rng.dirichlet(alpha, (height, width)).transpose(2, 0, 1) + 1e-6
        yield rng, boundary, np.ascontiguousarray(probabilities, np.float32)


def neighbours(shape):
    """All pairs of the 4-neighbour grid, as flat indices."""
    index = np.arange(np.prod(shape)).reshape(shape)
    return np.concatenate(
        [
            np.stack([index[:, :-1].ravel(), index[:, 1:].ravel()], 1),
            np.stack([index[:-1].ravel(), index[1:].ravel()], 1),
        ]
    )


def components(boundary):
    """Numbers the components of the grid without boundary–boundary edges, by repeated relaxation."""
    walls, pairs = boundary.ravel(), neighbours(boundary.shape)
    pairs = pairs[~(walls[pairs[:, 0]] & walls[pairs[:, 1]])]
    lowest = np.arange(walls.size)
    for _ in range(walls.size):
        before = lowest.copy()
        for one, other in (pairs.T, pairs[:, ::-1].T):
            np.minimum.at(lowest, one, before[other])
        if (lowest == before).all():
            break
    return lowest.reshape(boundary.shape)


@pytest.mark.parametrize("backend", BACKENDS)
def test_regions_are_the_large_components(backend):
    for rng, boundary, _ in scenes(0):
        min_size = int(rng.integers(1, 12))
        ids, parts = segment(boundary, min_size, backend=backend), components(boundary)
        sizes = {part: int((parts == part).sum()) for part in np.unique(parts)}
        kept = [part for part in np.unique(parts) if sizes[part] >= min_size]
        assert sorted(set(ids[ids >= 0])) == list(range(len(kept)))
        for number, part in enumerate(kept):  # components are numbered by their first pixel, as regions are
            np.testing.assert_array_equal(ids == number, parts == part)
        assert all(sizes[part] < min_size for part in np.unique(parts[ids < 0]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_masks_cover_the_image_once_and_labels_are_the_argmax_of_their_sums(backend):
    moved = 0
    for rng, boundary, probabilities in scenes(1):
        regions = segment(boundary, int(rng.integers(1, 12)))
        promote = rng.choice([0.3, 0.6, 0.9, 1.1])
        options = {"promote": promote, "join": rng.choice([0.02, 0.3]), "impatience": rng.choice([1.2, 3.0])}
        masks, labels = fill_masks(probabilities, regions, **options, backend=backend)
        count, num_classes = int(regions.max()) + 1, len(probabilities)
        assert masks.dtype == np.int32
        assert ((masks >= 0) & (masks < count + num_classes)).all()  # one map of ids: one mask for every pixel
        np.testing.assert_array_equal(masks[regions >= 0], regions[regions >= 0])  # seeds stay
        best, loose = probabilities.argmax(0), regions < 0
        sure = loose & (probabilities.max(0) >= promote)
        np.testing.assert_array_equal(masks[sure], count + best[sure])  # promoted pixels stay
        rest = loose & ~sure
        moved += int(rest.sum())
        if not (regions >= 0).any() and not sure.any():
            np.testing.assert_array_equal(labels, best)  # nothing to join: every pixel by itself
            continue
        for number in range(count):
            sums = probabilities[:, masks == number].astype(np.float64).sum(1)
            (label,) = set(labels[masks == number].tolist())
            assert sums[label] >= sums.max() * (1 - 1e-9)
        promoted = masks >= count
        np.testing.assert_array_equal(labels[promoted], masks[promoted] - count)
        # Every pixel that joined lies beside a pixel of that mask.
        touching = np.zeros(masks.size, bool)
        for one, other in neighbours(masks.shape):
            if masks.flat[one] == masks.flat[other]:
                touching[[one, other]] = True
        assert touching.reshape(masks.shape)[rest].all()
        np.testing.assert_array_equal(dust_fill(probabilities, regions, **options, backend=backend), labels)
    assert moved > 1000

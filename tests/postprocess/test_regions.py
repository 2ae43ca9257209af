import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segbench.kernels import native
from segbench.postprocess.dust_fill import dust_fill
from segbench.postprocess.morphology import clean_boundary, close_gaps, hollow, keep_blocks
from segbench.postprocess.regions import Regions
from segbench.postprocess.segment import segment
from tests.reference import slow_regions

BACKENDS = [pytest.param(True, marks=pytest.mark.skipif(not native.available(), reason="no C compiler")), False]


@pytest.fixture(params=BACKENDS, ids=["native", "without compiler"])
def backend(request, monkeypatch):
    monkeypatch.setattr(native, "available", lambda: request.param)


def scenes(count, seed=0):
    """Random boundaries and probabilities, from smooth to hopeless, and full of ties."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        num_classes, height, width = rng.integers(1, 5), rng.integers(1, 11), rng.integers(1, 11)
        boundary = rng.random((height, width)) < rng.choice([0, 0.2, 0.5, 0.8, 1])
        if rng.random() < 0.5:
            probabilities = rng.integers(1, 4, (num_classes, height, width)) / 4  # exact in binary: many ties
        else:
            probabilities = rng.dirichlet([0.5] * num_classes, (height, width)).transpose(2, 0, 1) + 1e-6
        yield boundary, np.ascontiguousarray(probabilities, np.float32), rng


@pytest.mark.usefixtures("backend")
def test_regions_are_those_of_the_floods():
    for boundary, _, rng in scenes(300):
        min_size = int(rng.integers(1, 8))
        expected = np.full(boundary.shape, -1)
        for number, mask in enumerate(slow_regions.segment(boundary, min_size)):
            expected[mask] = number
        ids = segment(boundary, min_size)
        assert ids.dtype == np.int32
        np.testing.assert_array_equal(ids, expected)


@pytest.mark.usefixtures("backend")
def test_filling_is_that_of_the_stacks():
    for boundary, probabilities, rng in scenes(300, seed=1):
        min_size = int(rng.integers(1, 8))
        promote = rng.choice([0.3, 0.5, 0.75, 1.1], len(probabilities))
        join, impatience = float(rng.choice([0.01, 0.25, 1.0])), float(rng.choice([1.1, 1.5, 4.0]))
        masks = slow_regions.segment(boundary, min_size)
        expected, ends, stats = slow_regions.dust_fill(probabilities, masks, promote, join, impatience)
        labels = dust_fill(
            probabilities, segment(boundary, min_size), promote=list(promote), join=join, impatience=impatience
        )
        np.testing.assert_array_equal(labels, expected)
        if np.any(ends):  # the restatement itself: every pixel in one mask, seeds stay, statistics are sums
            np.testing.assert_array_equal(np.sum(ends, 0), 1)
            for before, after, total in zip(masks, ends, stats, strict=False):
                assert (after >= before).all()
                np.testing.assert_allclose(probabilities[:, after].sum(1), total, rtol=1e-5)


@st.composite
def small_images(draw):
    """Boundary and probabilities that Hypothesis can shrink; quarters, so that ties are many."""
    height, width = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    boundary = draw(arrays(np.bool_, (height, width)))
    quarters = draw(arrays(np.int64, (draw(st.integers(1, 4)), height, width), elements=st.integers(1, 4)))
    return boundary, (quarters / 4).astype(np.float32)


@pytest.mark.parametrize("with_compiler", BACKENDS)
@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(
    image=small_images(),
    min_size=st.integers(1, 8),
    promote=st.sampled_from([0.3, 0.5, 0.75, 1.1]),
    join=st.sampled_from([0.01, 0.25, 0.5, 1.0]),
    impatience=st.sampled_from([1.1, 1.5, 4.0]),
)
def test_regions_and_filling_are_those_of_the_stacks_on_any_image(
    with_compiler, image, min_size, promote, join, impatience
):
    boundary, probabilities = image
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "available", lambda: with_compiler)
        regions = segment(boundary, min_size)
        options = {"promote": promote, "join": join, "impatience": impatience}
        labels = dust_fill(probabilities, regions, **options)
    masks = slow_regions.segment(boundary, min_size)
    for number, mask in enumerate(masks):
        np.testing.assert_array_equal(regions == number, mask)
    assert regions.max() == len(masks) - 1
    promoted = np.full(len(probabilities), promote)
    expected, _, _ = slow_regions.dust_fill(probabilities, masks, promoted, join, impatience)
    np.testing.assert_array_equal(labels, expected)


def test_a_wall_of_one_pixel_holds_nothing_and_one_of_two_does():
    thin = np.zeros((4, 7), bool)
    thin[:, 3] = True
    assert (segment(thin, 1) == 0).all()
    thick = thin.copy()
    thick[:, 4] = True
    ids = segment(thick, 1)
    assert (ids[:, :4] == 0).all()
    assert (ids[:, 4:] == 1).all()


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (5, 3), (0, 4)])
def test_degenerate_images_end(shape):
    probabilities = np.full((3, *shape), 1 / 3, np.float32)
    probabilities[2] += 1e-3
    for boundary in (np.zeros(shape, bool), np.ones(shape, bool)):
        for min_size in (1, 1000):  # with 1000 there is no seed, and nothing reaches promotion
            labels = dust_fill(probabilities, segment(boundary, min_size))
            assert labels.shape == shape
            assert (labels == 2).all()


@pytest.mark.usefixtures("backend")
def test_what_is_no_probability_is_refused():
    regions = np.full((3, 4), -1)
    regions[0] = 0
    for broken in (np.nan, np.inf, -0.1):
        for place in ((0, 0), (2, 3)):
            probabilities = np.full((2, 3, 4), 0.5, np.float32)
            probabilities[1][place] = broken
            with pytest.raises(ValueError, match="probabilities must be numbers"):
                dust_fill(probabilities, regions)
    with pytest.raises(ValueError, match="probabilities must be numbers"):
        dust_fill(np.zeros((2, 3, 4), np.float32), regions)
    nothing = np.full((2, 3, 4), 0.4, np.float32)
    nothing[:, 0] = 0  # a whole region without probability: no distance from it is a number
    with pytest.raises(ValueError, match="probabilities must be numbers"):
        dust_fill(nothing, regions)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"join": 0.0}, "join=0.0 must be above 0"),
        ({"impatience": 1.0}, "impatience=1.0 above 1"),
        ({"join": float("nan")}, "join=nan"),
        ({"impatience": 1.0001}, "impatience=1.0001 would turn a pixel away 36,891 times"),
        ({"join": 1e-300, "impatience": 1.1}, "give larger ones"),
        ({"promote": [0.5, 0.5, 0.5]}, "one number or 2"),
        ({"promote": float("nan")}, "promote must be one number"),
    ],
)
def test_options_that_never_end_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        dust_fill(np.full((2, 3, 4), 0.5, np.float32), np.zeros((3, 4), int), **options)


def test_regions_refuses_what_filling_would_before_it_sees_an_image():
    for options in (
        {"join": 0.0},
        {"impatience": 1.0},
        {"impatience": 1.0001},
        {"promote": [0.5, float("nan")]},
    ):
        with pytest.raises(ValueError, match=next(iter(options))):
            Regions(**options)


@pytest.mark.usefixtures("backend")
def test_a_distance_of_exactly_the_threshold_is_turned_away():
    """The third pixel is 0.5 from the fourth, its only mask at first, and then 0.25 from the other."""
    first = np.array([0.375, 0.375, 0.5, 0.75], np.float32)
    probabilities = np.stack([first, 1 - first])[:, None]
    regions = np.array([[0, -1, -1, 1]])
    labels = dust_fill(probabilities, regions, promote=1.1, join=0.5)
    np.testing.assert_array_equal(labels, [[1, 1, 1, 0]])
    labels = dust_fill(probabilities, regions, promote=1.1, join=0.51)
    np.testing.assert_array_equal(labels, [[1, 1, 0, 0]])


@pytest.mark.usefixtures("backend")
def test_numbers_of_regions_may_have_gaps_but_not_exceed_the_pixels():
    probabilities = np.full((2, 3, 4), 0.5, np.float32)
    probabilities[1] = 0.4
    regions = np.full((3, 4), -1)
    regions[0], regions[2] = 1, 3
    assert (dust_fill(probabilities, regions) == 0).all()
    regions[2] = 12
    with pytest.raises(ValueError, match="have 12 in 12 pixels"):
        dust_fill(probabilities, regions)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("sure", [(0, 0), (5, 8), (8, 3)])
def test_one_sure_pixel_fills_an_image_without_regions_as_the_stacks_do(sure):
    """The longest way to go: one pixel after the other, each turned away many times."""
    rng = np.random.default_rng(3)
    probabilities = (rng.random((3, 9, 11)) + 1).astype(np.float32)
    probabilities /= probabilities.sum(0)
    probabilities[:, sure[0], sure[1]] = [0.1, 0.8, 0.1]
    loose = np.full((9, 11), -1)
    expected, _, _ = slow_regions.dust_fill(probabilities, [], [0.7] * 3, 0.05, 1.5)
    np.testing.assert_array_equal(dust_fill(probabilities, loose, promote=0.7), expected)
    loose[sure] = 0  # and as a region, whose statistics change all the time
    seed = [loose == 0]
    expected, _, _ = slow_regions.dust_fill(probabilities, seed, [2.0] * 3, 0.05, 1.5)
    np.testing.assert_array_equal(dust_fill(probabilities, loose, promote=2.0), expected)


@pytest.mark.skipif(not native.available(), reason="no C compiler")
def test_next_to_nothing_sure_takes_no_longer_than_the_pixels_do():
    """An untrained boundary head makes all of an image wall; with stacks this took 6 s, for 512x512 44 s."""
    rng = np.random.default_rng(0)
    probabilities = (rng.random((24, 256, 256)) + 1).astype(np.float32)
    probabilities[3, 0, 0] = 100
    probabilities /= probabilities.sum(0)
    start = time.process_time()
    labels = Regions()(probabilities, np.full((256, 256), 0.5, np.float32))
    assert time.process_time() - start < 2  # 0.15 s on an idle core
    assert (labels == 3).all()


def test_options_are_checked_against_the_classes_before_any_image():
    Regions().check(3)
    Regions(promote=[0.5, 0.6, 0.7]).check(3)
    with pytest.raises(ValueError, match="promote must be one number or 3"):
        Regions(promote=[0.5, 0.5]).check(3)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"\(3, 4\)"):
        dust_fill(np.full((2, 4, 3), 0.5, np.float32), np.zeros((3, 4), int))
    with pytest.raises(ValueError, match="must be"):
        segment(np.zeros((2, 3, 4)), 1)
    with pytest.raises(ValueError, match=r"boundary \(H, W\)"):
        Regions()(np.full((2, 4, 3), 0.5, np.float32), np.zeros((3, 4), np.float32))


def slow_clean(boundary, threshold, radius):
    """Steps 1 to 4 one pixel at a time."""
    height, width = boundary.shape
    above = {(y, x): bool(boundary[y, x] > threshold) for y in range(height) for x in range(width)}
    blocks = [
        [(y + dy, x + dx) for dy in (0, 1) for dx in (0, 1)]
        for y in range(height - 1)
        for x in range(width - 1)
    ]
    kept = {place for block in blocks if all(above[place] for place in block) for place in block}
    kept |= {(y, x) for y, x in above if y in (0, height - 1) or x in (0, width - 1)}
    if radius == 0:
        return kept
    span = range(-radius, radius + 1)
    grown = {(y + dy, x + dx) for y, x in kept for dy in span for dx in span}
    filled = {
        (y, x)
        for y, x in above
        if all((y + dy, x + dx) in grown for dy in span for dx in span if abs(dy) + abs(dx) <= radius)
    }
    ring = [(dy, dx) for dy in range(-2, 3) for dx in range(-2, 3) if 0 < abs(dy) + abs(dx) <= 2]
    deep = {
        (y, x)
        for y, x in filled
        if all((y + dy, x + dx) in filled or (y + dy, x + dx) not in above for dy, dx in ring)
    }
    return kept | (filled - deep)


def test_walls_are_cleaned_as_the_article_says():
    rng = np.random.default_rng(2)
    for _ in range(60):
        boundary = rng.random((rng.integers(1, 16), rng.integers(1, 16))) ** rng.choice([1, 3, 8])
        radius = int(rng.integers(0, 4))
        walls = clean_boundary(boundary, 0.4, radius)
        assert set(zip(*(axis.tolist() for axis in np.nonzero(walls)), strict=True)) == slow_clean(
            boundary, 0.4, radius
        )


def test_steps_of_the_clean_up_by_hand():
    single = np.zeros((7, 7), bool)
    single[3, 3] = True
    assert not keep_blocks(single).any()
    gap = np.zeros((5, 15), bool)
    gap[1:4, :6] = gap[1:4, 9:] = True
    assert close_gaps(gap, 2)[2].all()
    assert not close_gaps(gap, 1)[2, 6:9].all()
    block = np.zeros((9, 9), bool)
    block[1:8, 1:8] = True
    assert not hollow(block)[4, 4]
    assert hollow(block)[1, 1:8].all()


@pytest.mark.parametrize(("options", "message"), [((-0.1, 5), "threshold"), ((0.1, -1), "expand")])
def test_clean_up_refuses_what_is_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        clean_boundary(np.zeros((3, 3)), *options)
    with pytest.raises(ValueError, match="Regions needs"):
        Regions(*options)


def test_clean_up_refuses_nan():
    with pytest.raises(ValueError, match="not a number"):
        clean_boundary(np.array([[0.1, np.nan]]))


def test_a_whole_picture_is_labelled_by_regions():
    """Two areas, wrong single pixels in each: walls around the areas put them right."""
    truth = np.zeros((40, 60), np.int64)
    truth[:, 30:] = 1
    rng = np.random.default_rng(0)
    noisy = np.where(rng.random(truth.shape) < 0.2, 1 - truth, truth)
    probabilities = np.where(np.arange(2)[:, None, None] == noisy, 0.8, 0.2).astype(np.float32)
    boundary = np.zeros(truth.shape, np.float32)
    boundary[:, 29:31] = 0.9
    assert (noisy != truth).mean() > 0.15
    labels = Regions(expand=0)(probabilities, boundary)
    assert (labels[1:-1, 1:-1] == truth[1:-1, 1:-1]).mean() > 0.99

"""The standard augmentation, against slow re-statements of what MMSegmentation does."""

import colorsys

import cv2
import numpy as np
import pytest
from reference.slow_augment import window_of_resized

from segbench.data.augment import (
    Colors,
    StandardAugment,
    View,
    color_matrix,
    cut,
    is_varied,
    plain_augment,
    randomness,
)
from segbench.data.scene import generate_scene
from segbench.data.transforms import PhotoMetricDistortion

SIZE = (48, 64)
SCENE, SCENE_LABEL = generate_scene(3, 8, (120, 160))


def coded(height, width):
    """An image that says its label: 40 times the class in every channel, in blocks of 16 pixels."""
    label = np.add.outer(np.arange(height) // 16, np.arange(width) // 16).astype(np.uint8) % 6
    return np.repeat(label[..., None] * 40, 3, 2), label


def views(shape, count=40, **options):
    augment = StandardAugment(SIZE, 255, **{"cat_max_ratio": 1} | options)
    return [augment.draw(np.zeros(shape, np.uint8), randomness(0, n)) for n in range(count)]


def factors(view):
    return [
        out / (source.stop - source.start)
        for out, source in zip(view.size, (view.rows, view.columns), strict=True)
    ]


@pytest.mark.parametrize("number", range(12))
@pytest.mark.parametrize("shape", [(90, 130), (30, 200), (20, 20)])
def test_image_and_label_stay_together(shape, number):
    image, label = StandardAugment(SIZE, 255, colors=None)(*coded(*shape), number)
    assert image.shape == (*SIZE, 3)
    assert label.shape == SIZE
    inside = label != 255
    assert set(np.unique(label[inside])) <= set(range(6))  # never mixed
    assert (image[~inside] == 128).all()
    height, width = inside.any(1).sum(), inside.any(0).sum()
    assert inside[:height, :width].all()  # padding lies at the bottom and on the right
    # The image is interpolated near the edges between blocks, which may lie just outside, and nowhere else.
    calm = cv2.erode(
        inside.astype(np.uint8), np.ones((5, 5)), borderType=cv2.BORDER_CONSTANT, borderValue=0
    ) * (cv2.dilate(label, np.ones((5, 5))) == cv2.erode(label, np.ones((5, 5))))
    assert np.array_equal(image[calm > 0], np.repeat(label[calm > 0, None] * 40, 3, 1))


@pytest.mark.parametrize("number", range(8))
def test_a_view_is_a_window_of_the_resized_picture(number):
    view = views(SCENE.shape[:2], number + 1)[number]._replace(mirrored=False)
    start = [s.start * factor for s, factor in zip((view.rows, view.columns), factors(view), strict=True)]
    expected = window_of_resized(SCENE, factors(view), start, view.size)
    seen = cut(SCENE, view, cv2.INTER_LINEAR)
    inner = slice(2, -2), slice(2, -2)  # what lies beyond the window is not looked at
    assert np.abs(seen - expected)[inner].max() < 3  # OpenCV counts in elevenths of bits
    assert np.abs(seen - expected)[inner].mean() < 0.6
    mirrored = cut(SCENE, view._replace(mirrored=True), cv2.INTER_LINEAR)
    assert np.abs(mirrored[:, ::-1].astype(int) - seen).max() <= 2


def test_views_are_those_of_scaling_then_cropping():
    """Factors are even from 0.5 to 2 and the same for both sides, windows lie everywhere."""
    drawn = views((300, 400), 400)
    for view in drawn:
        assert factors(view)[0] == pytest.approx(factors(view)[1], rel=0.05)  # to a pixel of the window
        assert 0 <= view.rows.start < view.rows.stop <= 300
        assert 0 <= view.columns.start < view.columns.stop <= 400
    vertical = np.array([factors(view)[0] for view in drawn])
    assert np.quantile(vertical, [0, 0.25, 0.5, 0.75, 1]) == pytest.approx(
        [0.5, 0.875, 1.25, 1.625, 2], abs=0.08
    )
    place = np.array([v.rows.start / (300 - (v.rows.stop - v.rows.start)) for v in drawn])
    assert np.quantile(place, [0, 0.25, 0.5, 0.75, 1]) == pytest.approx([0, 0.25, 0.5, 0.75, 1], abs=0.08)
    assert np.mean([view.mirrored for view in drawn]) == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize("shape", [(512, 683), (683, 512), (300, 2000)])
def test_scaling_fits_into_the_limits_times_a_random_factor(shape):
    fitted = min(2048 / max(shape), 512 / min(shape))
    found = [factors(view)[0] / fitted for view in views(shape, 60, scale=(2048, 512))]
    assert 0.49 < min(found) < 0.65
    assert 1.75 < max(found) < 2.05


def test_crops_reach_every_place():
    label = np.arange(100, dtype=np.uint8).reshape(10, 10)
    augment = plain_augment((8, 8), 255, None, 0)
    corners = {augment(np.repeat(label[..., None], 3, 2), label, n)[1][0, 0] for n in range(200)}
    assert corners == {10 * row + column for row in range(3) for column in range(3)}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_crops_in_which_one_class_dominates_are_rare(dtype):
    """Class 0 covers the left three quarters and is mixed only on the right; 255 does not count as a class."""
    label = np.zeros((64, 256), dtype)
    label[:, 160:] = np.arange(64)[:, None] // 8 % 3
    label[::2, :100] = 255
    image = np.repeat(label[..., None], 3, 2).astype(np.uint8)
    dominated = {}
    for ratio in (0.75, 1.0):
        augment = StandardAugment((32, 32), 255, factor=(1, 1), cat_max_ratio=ratio, colors=None)
        crops = [augment(image, label, n)[1] for n in range(60)]
        dominated[ratio] = np.mean([not is_varied(crop, 0.75, 255) for crop in crops])
    assert dominated[1.0] > 0.5
    assert dominated[0.75] < 0.1


def test_a_picture_of_one_class_is_cropped_all_the_same():
    image, label = coded(100, 100)
    for only in (np.zeros_like(label), np.full_like(label, 255)):
        assert StandardAugment((32, 32), 255)(image, only, 0)[1].shape == (32, 32)


def test_one_row_is_enough():
    image, label = coded(1, 300)
    assert StandardAugment((32, 32), 255)(image, label, 0)[1].shape == (32, 32)


def through_yiq(image, shift, contrast, saturation, hue):
    """Re-states the change of colours pixel by pixel, by the standard library."""
    out = np.zeros(image.shape)
    for place in np.ndindex(image.shape[:2]):
        luma, i, q = colorsys.rgb_to_yiq(*((image[place].astype(float) + shift) * contrast / 255))
        turned = complex(i, q) * saturation * np.exp(-1j * np.radians(hue))
        # colorsys clips colours to [0, 1], so the inverse is written out.
        out[place] = np.linalg.solve(
            [[0.3, 0.59, 0.11], [0.599, -0.2773, -0.3217], [0.213, -0.5251, 0.3121]],
            [luma, turned.real, turned.imag],
        )
    return np.clip(out * 255, 0, 255)


@pytest.mark.parametrize(
    "steps",
    [(30.5, 1, 1, 0), (-30.5, 1.4, 1, 0), (0, 1, 1.5, 0), (0, 1, 1, -36), (0, 1, 0.5, 36), (12, 0.5, 1.3, 10)],
)
def test_colours_change_as_stated(steps):
    image = np.random.default_rng(0).integers(0, 256, (12, 12, 3)).astype(np.uint8)
    seen = cv2.transform(image, color_matrix(*steps))
    assert np.abs(seen - through_yiq(image, *steps)).max() < 3.5  # of which the coefficients' rounding is most


def test_grey_stays_grey_and_hues_turn_as_in_hsv():
    grey = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, 2)
    assert np.abs(cv2.transform(grey, color_matrix(0, 1, 1.5, 30)).astype(int) - grey).max() <= 1
    brown = np.full((1, 1, 3), (150, 110, 90), np.uint8)
    before = colorsys.rgb_to_hsv(*brown[0, 0] / 255)[0]
    for turn in (-30, 30):
        after = colorsys.rgb_to_hsv(*cv2.transform(brown, color_matrix(0, 1, 1, turn))[0, 0] / 255)[0]
        assert ((after - before) * 360 + 180) % 360 - 180 == pytest.approx(turn, abs=15)


def test_colours_change_about_as_strongly_as_in_mmsegmentation():
    ours, theirs = [], []
    distortion = PhotoMetricDistortion()
    distortion.set_random_seed(0)
    for number in range(300):
        matrix = Colors().draw(randomness(0, number))
        ours.append(0 if matrix is None else cv2.absdiff(cv2.transform(SCENE, matrix), SCENE).mean())
        theirs.append(cv2.absdiff(distortion.apply(SCENE, **distortion.get_params()), SCENE).mean())
    assert np.mean(ours) == pytest.approx(np.mean(theirs), rel=0.15)
    assert np.mean(np.array(ours) == 0) == pytest.approx(1 / 16, abs=0.04)


def test_a_draw_looks_the_same_wherever_it_is_made():
    one, other = StandardAugment(SIZE, 255, seed=3), StandardAugment(SIZE, 255, seed=3)
    for number in (5, 0, 7, 5):
        other(SCENE, SCENE_LABEL, 99)  # whatever came before
        for a, b in zip(one(SCENE, SCENE_LABEL, number), other(SCENE, SCENE_LABEL, number), strict=True):
            assert np.array_equal(a, b)
    assert len({one(SCENE, SCENE_LABEL, n)[0].tobytes() for n in range(20)}) == 20
    again = StandardAugment(SIZE, 255, seed=4)(SCENE, SCENE_LABEL, 5)[0]
    assert not np.array_equal(one(SCENE, SCENE_LABEL, 5)[0], again)


def test_labels_above_255_survive():
    image, label = coded(90, 130)
    _, result = StandardAugment(SIZE, 65535)(image, label.astype(np.uint16) + 300, 0)
    assert result.dtype == np.uint16
    assert set(np.unique(result)) <= {*range(300, 306), 65535}


def test_without_augmentation_a_picture_of_the_right_size_stays_as_it_is():
    image, label = coded(*SIZE)
    for number in range(5):
        same = plain_augment(SIZE, 255, None, 0)(image, label, number)
        assert np.array_equal(same[0], image)
        assert np.array_equal(same[1], label)


def test_a_view_of_everything_changes_nothing():
    everything = View(slice(0, 120), slice(0, 160), (120, 160), mirrored=False)
    assert np.array_equal(cut(SCENE, everything, cv2.INTER_LINEAR), SCENE)

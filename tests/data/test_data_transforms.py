"""Transforms for lists of one's own, against slow re-statements of what MMSegmentation does."""

import colorsys

import albumentations as A
import cv2
import numpy as np
import pytest

from segbench.data.transforms import (
    PhotoMetricDistortion,
    RandomScale,
    Transforms,
    VariedCrop,
)

SIZE = (48, 64)


def coded(height, width):
    """An image that says its label: 40 times the class in every channel, in blocks of 16 pixels."""
    label = np.add.outer(np.arange(height) // 16, np.arange(width) // 16).astype(np.uint8) % 6
    return np.repeat(label[..., None] * 40, 3, 2), label


def augment(transforms, image, label, number=0, seed=0):
    return Transforms(transforms, seed)(image, label, number)


@pytest.mark.parametrize("shape", [(512, 683), (683, 512), (300, 2000)])
def test_scaling_fits_into_the_limits_times_a_random_factor(shape):
    image, label = coded(*shape)
    factors = []
    for number in range(40):
        scaled, scaled_label = augment([RandomScale((2048, 512))], image, label, number)
        assert scaled.shape[:2] == scaled_label.shape
        fitted = min(2048 / max(shape), 512 / min(shape))
        factors.append(min(scaled.shape[:2]) / (min(shape) * fitted))
        assert scaled.shape[0] / scaled.shape[1] == pytest.approx(shape[0] / shape[1], rel=0.02)
    assert 0.49 < min(factors) < 0.65
    assert 1.75 < max(factors) < 2.01


def test_without_limits_the_factor_is_of_the_image_s_own_size():
    sides = [augment([RandomScale()], *coded(100, 60), number)[0].shape[0] for number in range(40)]
    assert 50 <= min(sides) < 65
    assert 175 < max(sides) <= 200


def test_scaling_is_opencv_s():
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3)).astype(np.uint8)
    label = np.random.default_rng(1).integers(0, 9, (50, 70)).astype(np.uint8)
    scaled, scaled_label = augment([RandomScale(factor=(1.5, 1.5))], image, label)
    assert np.array_equal(scaled, cv2.resize(image, (105, 75), interpolation=cv2.INTER_LINEAR))
    rows, columns = (np.arange(75) * 50 // 75)[:, None], np.arange(105) * 70 // 105
    assert np.array_equal(scaled_label, label[rows, columns])


def share_of_largest(label, ignore_index):
    counts = np.array([(label == c).sum() for c in np.unique(label) if c != ignore_index])
    return 1.0 if counts.size < 2 else counts.max() / counts.sum()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_crops_in_which_one_class_dominates_are_rare(dtype):
    """Class 0 covers the left three quarters and is mixed only on the right; 255 does not count as a class."""
    label = np.zeros((64, 256), dtype)
    label[:, 160:] = np.arange(64)[:, None] // 8 % 3
    label[::2, :100] = 255
    image = np.repeat(label[..., None], 3, 2).astype(np.uint8)
    dominated = {}
    for ratio in (0.75, 1.0):
        crops = [augment([VariedCrop((32, 32), ratio)], image, label, n)[1] for n in range(60)]
        dominated[ratio] = np.mean([share_of_largest(crop, 255) >= 0.75 for crop in crops])
    assert dominated[1.0] > 0.5
    assert dominated[0.75] < 0.1


def test_a_picture_of_one_class_is_cropped_all_the_same():
    image, label = coded(100, 100)
    assert augment([VariedCrop((32, 32))], image, np.zeros_like(label))[1].shape == (32, 32)
    assert augment([VariedCrop((32, 32))], image, np.full_like(label, 255))[1].shape == (32, 32)


def test_crops_reach_every_place():
    label = np.arange(100, dtype=np.uint8).reshape(10, 10)
    image = np.repeat(label[..., None], 3, 2)
    corners = {augment([VariedCrop((8, 8))], image, label, n)[1][0, 0] for n in range(200)}
    assert corners == {10 * row + column for row in range(3) for column in range(3)}


def distort(image, shift, contrast, contrast_first, saturation, hue):
    """Re-states the distortion pixel by pixel, with colours as real numbers."""

    def clipped(x):
        return np.clip(x, 0, 255)

    image = clipped(image.astype(float) + shift)
    if contrast_first:
        image = clipped(image * contrast)
    if saturation != 1 or hue:
        for pixel in image.reshape(-1, 3):
            h, s, v = colorsys.rgb_to_hsv(*pixel / 255)
            pixel[:] = np.array(colorsys.hsv_to_rgb((h + hue / 180) % 1, min(1, s * saturation), v)) * 255
    return image if contrast_first else clipped(image * contrast)


@pytest.mark.parametrize(
    "steps",
    [
        (30.5, 1.0, True, 1.0, 0),
        (-30.5, 1.4, True, 1.0, 0),
        (-30.5, 1.4, False, 1.0, 0),
        (0.0, 1.0, False, 1.5, 0),
        (0.0, 1.0, False, 1.0, -18),
        (0.0, 1.0, False, 0.5, 17),
        (12.0, 0.5, True, 1.3, 5),
    ],
)
def test_colours_change_as_stated(steps):
    image = np.random.default_rng(0).integers(0, 256, (12, 12, 3)).astype(np.uint8)
    result = PhotoMetricDistortion().apply(image, *steps)
    tolerance = 2.1 if steps[3] == 1 and not steps[4] else 9  # OpenCV's hue has steps of 2 degrees
    assert np.abs(result - distort(image, *steps)).max() < tolerance


def test_every_colour_step_is_drawn_half_of_the_time():
    transform = PhotoMetricDistortion()
    transform.set_random_seed(0)
    draws = [transform.get_params() for _ in range(2000)]
    for name, off in {"shift": 0, "contrast": 1, "contrast_first": False, "saturation": 1}.items():
        assert np.mean([d[name] == off for d in draws]) == pytest.approx(0.5, abs=0.04)
    hues = [d["hue"] for d in draws]
    assert (min(hues), max(hues)) == (-18, 17)
    assert all(-32 <= d["shift"] <= 32 and 0.5 <= d["saturation"] <= 1.5 for d in draws)


def test_a_draw_looks_the_same_wherever_it_is_made():
    image, label = coded(90, 130)

    def transforms():
        choice = A.OneOf([A.GaussianBlur(p=1), A.RandomGamma(p=1)], p=0.9)
        return [RandomScale(), VariedCrop(SIZE), A.HorizontalFlip(), PhotoMetricDistortion(), choice]

    one, other = Transforms(transforms(), seed=3), Transforms(transforms(), seed=3)
    for number in (5, 0, 7, 5):
        other(image, label, 99)  # whatever came before
        for a, b in zip(one(image, label, number), other(image, label, number), strict=True):
            assert np.array_equal(a, b)
    assert len({one(image, label, n)[0].tobytes() for n in range(20)}) == 20
    assert not np.array_equal(one(image, label, 5)[0], augment(transforms(), image, label, 5, seed=4)[0])

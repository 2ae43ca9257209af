"""Pictures show what the labels say."""

import cv2
import numpy as np
import pytest

from segbench.visualization import pictures

PALETTE = [[255, 0, 0], [0, 255, 0]]


def test_colours_are_the_palette_and_everything_else_is_black():
    labels = np.array([[0, 1], [255, 7]], dtype=np.uint8)
    assert pictures.colorize(labels, PALETTE).tolist() == [[[255, 0, 0], [0, 255, 0]], [[0, 0, 0], [0, 0, 0]]]


def test_errors_are_red_and_ignored_pixels_black():
    picture = pictures.errors(np.array([[0, 1, 1]]), np.array([[0, 0, 255]]), 255)
    assert picture[0].tolist() == [list(pictures.RIGHT_COLOR), list(pictures.WRONG_COLOR), [0, 0, 0]]


def test_overlay_mixes():
    image, colors = np.full((1, 1, 3), 100, np.uint8), np.full((1, 1, 3), 200, np.uint8)
    assert pictures.overlay(image, colors, 0.25)[0, 0].tolist() == [125, 125, 125]


def test_legend_shows_every_colour_and_breaks_lines():
    names, palette = [f"class {i}" for i in range(30)], [[8 * i, 255 - 8 * i, 40] for i in range(30)]
    picture = pictures.legend(names, palette, 300)
    assert picture.shape[1] == 300
    assert picture.shape[0] > 100
    colors = {tuple(color) for color in picture.reshape(-1, 3).tolist()}
    assert {tuple(color) for color in palette} <= colors


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("city/frame 1", "city__frame_1"),
        ("../../etc/passwd", "etc__passwd"),
        ("/root", "root"),
        ("ü.x-1", "ü.x-1"),
    ],
)
def test_names_from_data_stay_in_their_folder(name, expected):
    assert pictures.file_name(name).strip("_") == expected
    assert "/" not in pictures.file_name(name)


def test_shrink_keeps_shape_and_never_mixes_labels():
    labels = np.zeros((100, 50), np.uint8)
    labels[50:] = 9
    small = pictures.shrink(labels, 40, nearest=True)
    assert small.shape == (40, 20)
    assert set(np.unique(small)) == {0, 9}
    assert pictures.shrink(labels, 200) is labels


@pytest.mark.parametrize("name", ["plain.png", "größe 图.png"])
def test_png_round_trip(tmp_path, name):
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    path = tmp_path / name
    pictures.write_png(str(path), picture)
    back = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.array_equal(back, picture)
    with pytest.raises(OSError, match="nowhere"):
        pictures.write_png(str(tmp_path / "nowhere" / "a.png"), picture)


def test_heat_grows_brighter():
    picture = pictures.heat(np.array([[0.0, 0.25, 0.5, 1.0, 7.0]])).astype(int)
    assert (np.diff(picture.sum(-1)[0, :4]) > 0).all()
    assert picture[0, 3].tolist() == picture[0, 4].tolist()
    assert picture[0, 2, 0] > picture[0, 2, 2]  # red before blue


def test_regions_have_colours_of_their_own_and_none_is_black():
    regions = np.arange(-1, 29, dtype=np.int32).reshape(5, 6)
    picture = pictures.patchwork(regions)
    assert picture.shape == (5, 6, 3)
    assert (picture[0, 0] == 0).all()
    assert len({tuple(color) for color in picture.reshape(-1, 3).tolist()}) == 30
    assert not pictures.patchwork(np.full((2, 3), -1)).any()

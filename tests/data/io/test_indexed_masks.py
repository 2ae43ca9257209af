"""Masks with a palette, as tools write them: read by index or colour, or refused where both are possible."""

import numpy as np
import pytest
from PIL import Image

from segbench.__main__ import main
from segbench.data.folder import FolderDataModule

COLORS = np.array([(0, 0, 0), (255, 0, 0), (0, 255, 0), (90, 90, 200)], np.uint8)
TABLE = ["0 0 0 ground", "255 0 0 red", "0 255 0 green", "90 90 200 blue"]
RNG = np.random.default_rng(0)
IDS = np.where(RNG.random((16, 24)) < 0.4, RNG.integers(0, 4, (16, 24)), 0).astype(np.uint8)


def with_palette(index, palette):
    image = Image.fromarray(index)
    image.putpalette(np.array(palette, np.uint8).tobytes())
    return image


def indexed(ids, order, filling=()):
    """Stores classes under the place that `order` gives them, with their own colours."""
    index = np.zeros_like(ids)
    for place, k in enumerate(order):
        index[ids == k] = place
    return with_palette(index, [*COLORS[list(order)], *filling])


def read(tmp_path, mask, suffix=".png", **options):
    for part, picture in (
        ("images", Image.fromarray(RNG.integers(0, 255, (16, 24, 3), np.uint8))),
        ("masks", mask),
    ):
        path = tmp_path / part / "train" / f"a{suffix if part == 'masks' else '.png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    data = FolderDataModule(tmp_path, **({"classes": TABLE} | options), num_workers=0)
    return data.dataset("train").read(0).label


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2), (2, 0, 3, 1)])
def test_any_order_of_the_classes_colours_is_read_by_colour(tmp_path, order, suffix):
    assert (read(tmp_path, indexed(IDS, order), suffix) == IDS).all()
    assert (read(tmp_path, indexed(IDS, order), suffix, indexed_masks="colors") == IDS).all()


@pytest.mark.parametrize("shown", [(0, 2), (3,), (1, 3), (2, 3)])
def test_palettes_of_the_colours_shown_alone_are_read_by_colour(tmp_path, shown):
    ids = np.array(shown, np.uint8)[IDS % len(shown)]
    assert (read(tmp_path, indexed(ids, shown)) == ids).all()


@pytest.mark.parametrize(
    "filling", [[(0, 0, 0)] * 252, [(255, 255, 255)] * 252, [(0, 255, 0), (255, 0, 0)], [(7, 7, 7)] * 12]
)
def test_filling_and_repeated_colours_make_no_difference(tmp_path, filling):
    assert (read(tmp_path, indexed(IDS, (3, 1, 0, 2), filling)) == IDS).all()


def test_one_class_at_two_indices_is_one_class(tmp_path):
    image = indexed(IDS, (2, 0, 3, 1), [COLORS[3]])
    index = np.array(image)
    index[::2][index[::2] == 2] = 4
    twice = Image.fromarray(index)
    twice.putpalette(image.getpalette())
    assert (read(tmp_path, twice) == IDS).all()


@pytest.mark.parametrize("filling", [COLORS[0], COLORS[2]])
@pytest.mark.parametrize("own", [[0, 1, 2, 3], [1, 3]])
def test_an_id_without_a_class_may_have_the_colour_that_fills_the_palette(tmp_path, filling, own):
    ids = np.array([*own, 255], np.uint8)[RNG.integers(0, len(own) + 1, IDS.shape)]
    image = with_palette(ids, [*COLORS, *[filling] * 252])
    assert (read(tmp_path, image) == ids).all()


@pytest.mark.parametrize(
    ("palette", "shown"),
    [
        ([*COLORS[:2], *[COLORS[0]] * 254], (0, 1, 2)),  # too short for the third class
        ([COLORS[0]] * 256, (0, 1)),
        ([COLORS[0]] * 256, (1,)),
        ([COLORS[1], COLORS[0], COLORS[2], COLORS[3], *[COLORS[0]] * 252], (0, 1, 255)),  # 255 may be void
    ],
)
def test_indices_in_the_filling_are_refused_where_they_may_be_classes(tmp_path, palette, shown):
    ids = np.array(shown, np.uint8)[IDS % len(shown)]
    image = with_palette(ids, palette)
    with pytest.raises(
        ValueError, match=r"a\.png: index \d+ of the palette .* repeats it.* indexed_masks to ids"
    ):
        read(tmp_path, image)
    assert (read(tmp_path, image, indexed_masks="ids") == ids).all()


ARBITRARY = [(68, 1, 84), (33, 145, 140), (253, 231, 37), (255, 255, 255)]
VOC = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)]


@pytest.mark.parametrize("palette", [ARBITRARY, VOC, [(i, i, i) for i in range(256)]])
@pytest.mark.parametrize(
    "classes", [TABLE, ["ground", "red", "green", "blue"], ["red", "ground", "blue", "green"]]
)
def test_under_palettes_of_other_colours_the_index_is_the_id(tmp_path, palette, classes):
    assert (read(tmp_path, with_palette(IDS, palette), classes=classes) == IDS).all()


def test_a_grey_ramp_is_grey_although_black_is_another_class(tmp_path):
    mask = with_palette(IDS, [(i, i, i) for i in range(256)])
    assert (read(tmp_path, mask, classes=[*TABLE[1:], TABLE[0]]) == IDS).all()


@pytest.mark.parametrize(
    ("palette", "shown"),
    [
        ([COLORS[0], COLORS[2], (255, 255, 255), (9, 9, 9)], (0, 1, 2)),  # white is not a class
        ([COLORS[1], COLORS[0], *VOC[1:]], (0, 1)),  # the others are not shown
        ([COLORS[1], COLORS[0]] + [COLORS[1]] * 15, (0, 1, 20)),  # 20 has no colour
    ],
)
def test_what_may_mean_either_is_refused_until_one_says_what_it_is(tmp_path, palette, shown):
    index = np.array(shown, np.uint8)[IDS % len(shown)]
    mask = with_palette(index, palette)
    with pytest.raises(
        ValueError, match=r"masks/train/a\.png: index . of the palette has .* indexed_masks to ids"
    ):
        read(tmp_path, mask)
    assert (read(tmp_path, mask, indexed_masks="ids", remap={20: 3}) == index.clip(max=3)).all()


def test_colours_without_a_class_are_refused_where_colours_count(tmp_path):
    mask = with_palette(IDS, ARBITRARY)
    with pytest.raises(ValueError, match=r"a\.png: colour 68 1 84 in \d+ pixels.* mean no class"):
        read(tmp_path, mask, indexed_masks="colors")


def test_transparent_indices_are_refused_where_colours_count(tmp_path):
    path = tmp_path / "masks/train/a.png"
    read(tmp_path, indexed(IDS, (3, 1, 0, 2)))
    Image.open(path).save(path, transparency=2)
    data = FolderDataModule(tmp_path, classes=TABLE, num_workers=0)
    with pytest.raises(ValueError, match=r"a\.png: index 2 of the palette is transparent"):
        data.dataset("train").read(0)


def test_ignored_colours_are_ignored_in_palettes(tmp_path):
    label = read(tmp_path, indexed(IDS, (3, 1, 0, 2)), classes=TABLE[1:], ignore=["0 0 0"])
    assert (label == np.array([255, 0, 1, 2])[IDS]).all()


def test_the_doctor_says_which_masks_are_read_by_colour(tmp_path, capsys):
    orders = {"train": (3, 1, 0, 2), "val": (0, 1, 2, 3), "test": (2, 0, 3, 1)}
    (tmp_path / "classes.txt").write_text("\n".join(TABLE))
    for split, order in orders.items():
        for part in ("images", "masks"):
            (tmp_path / part / split).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(RNG.integers(0, 255, (16, 24, 3), np.uint8)).save(
                tmp_path / f"images/{split}/{i}.png"
            )
        indexed(IDS, order).save(tmp_path / f"masks/{split}/0.png")
        Image.fromarray(IDS if split == "val" else COLORS[IDS]).save(tmp_path / f"masks/{split}/1.png")
    doctor = ["doctor", "--data", "segbench.data.folder.FolderDataModule", "--data.root", str(tmp_path)]
    main(doctor)
    out = capsys.readouterr().out
    assert "note  palette order: 2 of 6 masks are read by the colours of their palettes" in out
    assert "index 0 is blue" in out
    assert "masks/train/0.png" in out
    assert "masks/val/0.png" not in out
    with pytest.raises(SystemExit):
        main([*doctor, "--data.indexed_masks", "colors", "--data.classes", str(["1 1 1 x", *TABLE[1:]])])
    assert "colour 0 0 0 in" in capsys.readouterr().out

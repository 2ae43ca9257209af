"""Splits of a folder that has none: no image on two sides, and none moves when others come."""

import unicodedata
from itertools import chain

import numpy as np
import pytest
from PIL import Image

from segbench.data.folder import FolderDataModule
from segbench.data.folder_layout import FolderLayout
from segbench.data.splits import DrawnSplits, divide

SPLITS = ("train", "val", "test")


def add(root, name, mask=True):
    for folder, shape in (("images", (4, 6, 3)), ("masks", (4, 6)))[: 2 if mask else 1]:
        (root / folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture = np.zeros(shape, np.uint8)
        picture[:2] = 1
        Image.fromarray(picture).save(root / folder / f"{name}.png")


@pytest.fixture
def root(tmp_path):
    for i in range(40):
        add(tmp_path, f"{'ab'[i % 2]}/{i:02d}")
    return tmp_path


def names(root, split, **arguments):
    data = FolderDataModule(root, classes=["a", "b"], num_workers=0, **arguments)
    return [pair.name for pair in data.dataset(split).pairs]


def sides(root, **arguments):
    return {split: names(root, split, **arguments) for split in SPLITS}


SHARES = {"splits": {"val": 0.2, "test": 0.1}}


def test_shares_divide_all_images_and_none_twice(root):
    found = sides(root, **SHARES)
    assert sorted(chain(*found.values())) == sorted(f"{'ab'[i % 2]}/{i:02d}" for i in range(40))
    assert all(found.values())
    assert found == sides(root, **SHARES)
    assert names(root, "predict", **SHARES) == found["test"]
    assert sides(root, **SHARES, seed=7) == found  # training's own seed
    assert sides(root, **SHARES, split_seed=1) != found


def test_shares_are_kept_on_average():
    splits = divide((f"photo {i}" for i in range(4000)), {"val": 0.2, "test": 0.1})
    shares = [sum(split == wanted for split in splits.values()) / 4000 for wanted in SPLITS]
    assert shares == pytest.approx([0.7, 0.2, 0.1], abs=0.02)


def test_new_images_move_none_of_the_others(root):
    before = sides(root, **SHARES)
    for i in range(20):
        add(root, f"new/{i}")
    after = sides(root, **SHARES)
    for split in SPLITS:
        assert set(before[split]) <= set(after[split])


@pytest.mark.parametrize("count", [3, 4, 5, 8])
def test_a_handful_of_photographs_fills_every_split(tmp_path, count):
    for i in range(count):
        add(tmp_path, str(i))
    found = sides(tmp_path, **SHARES)
    assert all(found.values())
    assert sum(map(len, found.values())) == count


def test_a_split_without_a_share(root):
    data = FolderDataModule(root, classes=["a", "b"], num_workers=0, splits={"val": 0.1})
    data.setup("fit")
    with pytest.raises(FileNotFoundError, match=r"split 'test' has no share: .*splits '\{test: 0\.1"):
        data.setup("test")


def test_a_run_folder_can_say_which_image_was_where(root):
    assert FolderDataModule(root, classes=["a"], **SHARES).layout.own_splits
    assert not FolderDataModule(root, classes=["a"]).layout.own_splits


@pytest.mark.parametrize(
    ("folders", "remedy"),
    [
        (("images/training", "images/validation"), "let splits be {'train': 'training', 'val': 'validation'}"),
        (("photos/train", "photos/val"), "take splits out of the configuration and images photos/{split}"),
    ],
)
def test_shares_do_not_pool_folders_of_splits_whatever_they_are_called(root, folders, remedy):
    for i, folder in enumerate(folders):
        add(root, f"../{folder}/{i}")
    where = {"images": "photos", "masks": "masks"} if "photos" in folders[0] else {}
    with pytest.raises(ValueError, match=f"{folders[0]} and {folders[1]} of .* together: ") as error:
        names(root, "train", splits={"val": 0.1}, **where)
    assert remedy in str(error.value)


def test_a_drawn_layout_finds_what_it_places(tmp_path):
    layout = DrawnSplits(
        FolderLayout(splits=dict.fromkeys([*SPLITS, "predict"], "")), {"val": 0.2, "test": 0.2}
    )
    placed = {split: [layout.place(tmp_path, split, i) for i in range(4)] for split in SPLITS}
    for pair in chain(*placed.values()):
        layout.write(pair, np.zeros((4, 6, 3), np.uint8), np.zeros((4, 6), np.uint8))
    assert {split: layout.pairs(tmp_path, split) for split in SPLITS} == placed


def listed(root, **lists):
    for split, lines in lists.items():
        (root / f"{split}.txt").write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    return {"splits": {split: f"{split}.txt" for split in lists}}


def test_lists_say_what_is_where(root):
    given = listed(root, train=["a/04", "b/01"], val=["a/02.png"], test=["b/03.JPG"])
    assert sides(root, **given) == {"train": ["a/04", "b/01"], "val": ["a/02"], "test": ["b/03"]}
    assert names(root, "predict", **given) == ["b/03"]


def test_the_lists_of_a_run_folder_repeat_its_splits(root):
    drawn = sides(root, **SHARES)
    assert sides(root, **listed(root, **drawn)) == drawn


def test_only_listed_images_need_masks(root):
    add(root, "bare", mask=False)
    given = listed(root, train=["a/04"], val=["a/02"], predict=["bare"])
    assert names(root, "train", **given) == ["a/04"]
    assert names(root, "predict", **given) == ["bare"]
    with pytest.raises(ValueError, match=r"bare\.png has no mask"):
        names(root, "train", **listed(root, train=["bare"], val=["a/02"]))


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"train": ["a/00", "b/01"], "val": ["b/01"]}, r"b/01 and 0 others are in train\.txt and in val\.txt"),
        (
            {"train": ["a/00", "a/99", "c"], "val": ["b/01"]},
            r"train\.txt, line 2: .a/99. is not an image of .* \(1 other lines neither\)",
        ),
        ({"train": [], "val": ["b/01"]}, r"train\.txt is empty"),
    ],
)
def test_lists_that_cannot_be_right(root, lists, message):
    with pytest.raises(ValueError, match=message) as error:
        names(root, "train", **listed(root, **lists))
    assert "\n" not in str(error.value)


def test_lists_in_another_encoding_are_named(root):
    given = listed(root, train=["a/00"], val=["b/01"])
    (root / "train.txt").write_bytes("straße".encode("latin-1"))
    with pytest.raises(ValueError, match=r"train\.txt is not UTF-8: save it as UTF-8"):
        names(root, "train", **given)


def test_lists_may_write_accents_in_two_forms(root):
    add(root, unicodedata.normalize("NFC", "Köln"))
    given = listed(root, train=[unicodedata.normalize("NFD", "Köln")], val=["b/01"])
    assert names(root, "train", **given) == [unicodedata.normalize("NFC", "Köln")]


def test_missing_lists(root):
    with pytest.raises(FileNotFoundError, match=r"no file .*val\.txt for split 'val'"):
        names(root, "val", splits={"train": "train.txt", "val": "val.txt"})
    with pytest.raises(FileNotFoundError, match="split 'test' has no list"):
        names(root, "test", **listed(root, train=["a/00"]))


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"val": 0.1, "train": "training"}, "mixes folders, text files and shares"),
        ({"validation": "val"}, "unknown split 'validation'"),
        ({"train": 0.8}, "give the shares of val and test"),
        ({"val": 0.6, "test": 0.4}, "the rest is for training"),
        ({"val": -0.1}, "give the shares"),
    ],
)
def test_splits_that_cannot_be_right(root, splits, message):
    with pytest.raises(ValueError, match=message) as error:
        names(root, "train", splits=splits)
    assert "\n" not in str(error.value)

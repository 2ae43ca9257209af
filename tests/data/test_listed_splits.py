"""Lists of images as other tools write them: read exactly, or refused with the line and the cause."""

import numpy as np
import pytest
from PIL import Image

from segbench.data.folder import FolderDataModule

PAIRS = {"0": "0", "1": "1", "2": "2", "my photo": "my photo", "siteA/x": "siteA/x"}


@pytest.fixture
def root(tmp_path):
    for i, name in enumerate(PAIRS):
        for part, shape in (("images", (4, 6, 3)), ("masks", (4, 6)), ("other masks", (4, 6))):
            path = tmp_path / part / f"{name}.{'jpg' if part == 'images' else 'png'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full(shape, i % 2 + 2 * (part == "other masks"), np.uint8)).save(path)
    (tmp_path / "val.txt").write_text("2\n")
    return tmp_path


def module(root, train="train.txt", **options):
    splits = {"train": train, "val": "val.txt"}
    return FolderDataModule(root, classes=list("abcd"), num_workers=0, splits=splits, **options)


def read(root, text, file="train.txt", **options):
    (root / file).write_bytes(text.replace("ROOT", str(root)).encode())
    return module(root, file, **options).dataset("train").pairs


@pytest.mark.parametrize(
    "text",
    [
        "0\n1\n", "0.jpg\r\n1.JPG\r\n", "\ufeff0\n\n1\n\n", "images\\0.jpg\r\nimages\\1.jpg\r\n",
        "./images/0.jpg\n.\\1", "# train\n0\n  # more\n1", "0 # blurry\n1\t",
        "ROOT/images/0.jpg\nROOT/images/1.jpg",
        '"images/0.jpg"\n"1"',
        "images/0.jpg masks/0.png\n1 1.png", "images\\0.jpg\tmasks\\0.png\r\n1,masks/1",
        "0.jpg;0.png\n1.jpg;1.png",
        "image,mask\nimages/0.jpg,masks/0.png\n1.jpg,1.png", "image_path mask_path\n0 0\n1 1",
        "ROOT/images/0.jpg ROOT/masks/0.png\n1 ROOT/masks/1.png", "# a\nfilename\n0\n1", "0,\n1,",
    ],
)  # fmt: skip
@pytest.mark.parametrize("file", ["train.txt", "train.lst", "train.TXT", "train.csv", "plain"])
def test_lists_of_other_tools(root, text, file):
    pairs = read(root, text, file)
    assert [pair.name for pair in pairs] == ["0", "1"]
    assert [pair.label for pair in pairs] == [root / "masks/0.png", root / "masks/1.png"]


def test_names_with_blanks_and_folders(root):
    pairs = read(root, "my photo.jpg\nsiteA\\x.jpg masks/siteA/x.png\n")
    assert [pair.name for pair in pairs] == ["my photo", "siteA/x"]
    assert read(root, "images/my photo.jpg masks/my photo.png")[0].label == root / "masks/my photo.png"


def test_the_mask_of_a_pair_counts(root):
    text = "0.jpg other masks/0.png\nmy photo,other masks/my photo.png\n"
    data = module(root)
    (root / "train.txt").write_text(text)
    assert [pair.label for pair in data.dataset("train").pairs] == [
        root / "other masks/0.png",
        root / "other masks/my photo.png",
    ]
    assert [int(data.dataset("train").read(i).label.max()) for i in range(2)] == [2, 3]
    assert data.dataset("val").pairs[0].label == root / "masks/2.png"


def test_an_image_listed_twice_counts_once_and_that_is_said(root):
    with pytest.warns(UserWarning, match=r"train\.txt lists 0 and 0 others twice; each counts once"):
        assert len(read(root, "0\n1\nimages/0.jpg\n")) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0\n3.jpg\n", r"line 2: '3\.jpg' is not an image of "),
        ("my foto.jpg", r"'my foto\.jpg' is not an image.*: did you mean my photo\?"),
        ("sitea/x", r"did you mean siteA/x\?"),
        (
            "/data/images/0.jpg\n/data/images/1.jpg",
            r"\(1 other lines neither\): it is an absolute path elsewhere",
        ),
        ("C:\\data\\images\\0.jpg", "it is an absolute path elsewhere"),
        (
            "0 masks/missing.png",
            r"line 1: 'masks/missing\.png' is not the mask of 0\.jpg: write the image alone",
        ),
        ("0 -1\n1  1\n", r"line 1: '-1' is not the mask of 0\.jpg"),
        ("0 masks/0.png 7", r"'masks/0\.png 7' is not the mask of 0\.jpg"),
        ("masks/0.png", r"though the file is there: expected images/"),
        ("0\n0 other masks/0.png", "line 2: 0 has another mask before"),
        ("image,mask\n", "is empty"),
        ("# nothing\n", "is empty"),
        ("0\nimage,mask\n", "line 2: 'image,mask' is not an image"),
    ],
)
def test_lists_that_name_something_else_are_refused_with_line_and_cause(root, text, message):
    with pytest.raises(ValueError, match=rf"train\.txt.*{message}") as error:
        read(root, text)
    assert "\n" not in str(error.value)


def test_a_list_of_any_name_is_told_from_a_folder_by_what_is_there(root):
    with pytest.raises(ValueError, match="mixes folders, text files and shares"):
        module(root, "not there").dataset("train")

"""Data are known by what is in them, wherever they lie."""

import json
import shutil
from pathlib import Path

import pytest
from folders import NAMES, write_config, write_folder
from PIL import Image

from segbench.__main__ import main
from segbench.data.fingerprint import changed, fingerprint
from segbench.data.folder import FolderDataModule


def of(root, **options):
    data = FolderDataModule(root, num_workers=0, **options)
    data.setup("fit")
    return fingerprint(data)


@pytest.fixture
def base(tmp_path):
    return write_folder(tmp_path / "base", splits={"train": 20, "val": 2})


def test_a_copy_elsewhere_is_the_same(base, tmp_path):
    before = of(base)
    assert before["classes"] == list(NAMES)
    assert {split: entry["images"] for split, entry in before["splits"].items()} == {"train": 20, "val": 2}
    shutil.copytree(base, tmp_path / "other disk" / "copy")
    assert of(tmp_path / "other disk" / "copy") == before
    shutil.move(base, tmp_path / "moved")
    assert of(tmp_path / "moved") == before


def repaint(root):
    """Same names, same sizes, other pixels."""
    file = root / "images/train/train0.png"
    Image.open(file).rotate(180).save(file)


def relabel(root):
    file = root / "masks/val/val1.png"
    Image.open(file).point(lambda value: 2 * (value > 0)).save(file)


def recrop_one_that_is_not_sampled(root):
    for part in ("images", "masks"):
        file = root / part / "train/train11.png"
        Image.open(file).crop((0, 0, 32, 32)).save(file)


def rename(root):
    for part in ("images", "masks"):
        (root / part / "val/val0.png").rename(root / part / "val/val7.png")


def move_to_train(root):
    for part in ("images", "masks"):
        (root / part / "val/val0.png").rename(root / part / "train/val0.png")


def rename_a_class(root):
    (root / "classes.txt").write_text("ground\nbox\ncube\n")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (repaint, ["train: 20 images, but other files"]),
        (relabel, ["val: 2 images, but other files"]),
        (recrop_one_that_is_not_sampled, ["train: 20 images, but other files"]),
        (rename, ["val: 2 images, but other files"]),
        (move_to_train, ["train: 20 images then, 21 now", "val: 2 images then, 1 now"]),
        (rename_a_class, ["the classes are others"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_other_content_under_the_same_path_is_another_data_set(base, change, told):
    before = of(base)
    change(base)
    assert changed(before, of(base)) == told


def test_a_record_of_another_form_says_nothing(base):
    assert changed({"splits": [1], "more": None}, of(base)) == []


def test_a_resumed_run_says_that_its_data_have_changed_and_not_that_they_moved(tmp_path, monkeypatch, recwarn):
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path / "x.yaml", write_folder(tmp_path / "set"))
    main(["fit", "--config", "x.yaml", "--run_id", "a"])
    (tmp_path / "set").rename(tmp_path / "moved")
    resume = ["fit", "--resume", "runs/x/a", "--data.init_args.root", "moved"]
    main(resume)
    assert not recwarn.list
    repaint(tmp_path / "moved")
    with pytest.warns(UserWarning, match=r"runs/x/a began on other data \(train: 4 images, but other files\)"):
        main(resume)
    card = json.loads(Path("runs/x/a/run.json").read_text())
    assert card["data"]["splits"].keys() == {"train", "val", "test"}

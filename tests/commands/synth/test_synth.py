"""`segbench synth`: a twin of every dataset, and nothing of the user's destroyed."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from segbench.__main__ import main
from segbench.commands.synth.command import synth
from segbench.data.base import SegmentationDataModule
from segbench.data.folder_layout import FolderLayout
from segbench.data.io.files import read_mask
from segbench.data.spec import DatasetSpec
from segbench.data.synthetic import find_dataset as find

DATASETS = ["ade20k", "camvid", "cityscapes", "cityscapes_pairs", "deepfashion", "folder", "synthetic"]


class Mine(SegmentationDataModule):
    """A user's own data module, found by its dotted path."""

    spec = DatasetSpec(("ground", "tree"), ((1, 2, 3), (4, 5, 6)))
    layout = FolderLayout(images=("photos/{split}",), masks=("ids/{split}",), mask_suffix="_id")


def run(capsys, *args):
    with pytest.raises(SystemExit) as stop:
        main(["synth", *map(str, args)])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("dataset", DATASETS)
def test_a_twin_is_read_by_the_data_module_of_the_real_one(dataset, tmp_path, capsys):
    options = ["--images", "2", "--size", "[48, 40]"]
    main(["synth", "--dataset", dataset, "--root", str(tmp_path / "twin"), *options])
    assert str(tmp_path / "twin") in capsys.readouterr().out
    # Drawn scenes lie as those of a folder do, which is what reads them when they are not drawn again.
    cls = find("folder" if dataset == "synthetic" else dataset)
    data = cls(tmp_path / "twin", num_workers=0)
    present = set()
    for split in ("train", "val", "test"):
        samples = [data.dataset(split).read(i) for i in range(len(data.dataset(split)))]
        assert len(samples) == 2
        assert all(sample.image.shape == (48, 40, 3) for sample in samples)
        present |= {label for sample in samples for label in np.unique(sample.label).tolist()}
    assert present <= {*range(data.num_classes), 255}
    assert len(present) > 3
    if dataset != "synthetic":
        assert all((data.dataset("predict").read(i).image.shape == (48, 40, 3)) for i in range(2))


@pytest.mark.parametrize(
    ("dataset", "image", "label", "mode", "kinds"),
    [
        (
            "ade20k",
            "images/validation/ADE_val_00000001.jpg",
            "annotations/validation/ADE_val_00000001.png",
            "L",
            "JPEG PNG",
        ),
        ("ade20k", "images/testing/ADE_test_00000001.jpg", None, None, "JPEG"),
        (
            "cityscapes",
            "leftImg8bit/val/frankfurt/frankfurt_000001_000019_leftImg8bit.png",
            "gtFine/val/frankfurt/frankfurt_000001_000019_gtFine_labelIds.png",
            "L",
            "PNG PNG",
        ),
        ("cityscapes_pairs", "train/1.jpg", "train/1.jpg", "RGB", "JPEG JPEG"),
        (
            "deepfashion",
            "images/WOMEN-Dresses-id_00000000-01_2_side.jpg",
            "segm/WOMEN-Dresses-id_00000000-01_2_side_segm.png",
            "P",
            "JPEG PNG",
        ),
        ("camvid", "train/train_000001.png", "trainannot/train_000001.png", "L", "PNG PNG"),
        ("folder", "images/train/train_000001.jpg", "masks/train/train_000001.png", "L", "JPEG PNG"),
    ],
)
def test_files_are_named_and_stored_as_in_the_original(tmp_path, dataset, image, label, mode, kinds):
    synth(dataset, tmp_path / "twin", images=1, size=(32, 32))
    found = []
    for file in filter(None, (image, label)):
        with Image.open(tmp_path / "twin" / file) as picture:
            found.append((picture.format, picture.mode))
    assert found == list(zip(kinds.split(), ("RGB", mode), strict=False))


def test_ids_are_those_of_the_files(tmp_path):
    synth("ade20k", tmp_path / "twin", images=6, size=(48, 48))
    found = {i for path in tmp_path.rglob("annotations/*/*.png") for i in np.unique(read_mask(path)).tolist()}
    assert found <= set(range(151))
    assert {0, 1} <= found  # 0 is "other", a thin rim here; 1 is the first class
    assert max(found) > 50


def test_another_seed_draws_other_scenes(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        synth("camvid", tmp_path / name, images=1, size=(32, 32), seed=seed)
    a, b, c = ((tmp_path / name / "train/train_000001.png").read_bytes() for name in "abc")
    assert a == b != c


def test_a_data_module_of_the_users_own(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mine", sys.modules[__name__])
    synth("mine.Mine", tmp_path / "twin", images=1, size=(32, 32))
    assert (tmp_path / "twin/ids/train/train_000001_id.png").is_file()
    assert Mine(tmp_path / "twin", num_workers=0).dataset("val").read(0).label.max() <= 255


def test_what_the_user_has_stays(tmp_path, capsys):
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    line = run(capsys, "--dataset", "ade20k", "--root", tmp_path, "--images", "1")
    assert "is not empty: choose another folder" in line
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("photo.jpg", b"mine")]


def test_an_empty_folder_will_do(tmp_path):
    (tmp_path / "twin").mkdir()
    synth("camvid", tmp_path / "twin", images=1, size=(32, 32))
    assert [path.name for path in tmp_path.iterdir()] == ["twin"]


@pytest.mark.parametrize("target", ["empty", "nowhere"])
def test_a_link_is_refused_before_anything_is_drawn(tmp_path, capsys, monkeypatch, target):
    monkeypatch.setattr("segbench.data.synthetic.generate_scene", lambda *_: pytest.fail("drawn"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / target)
    line = run(capsys, "--dataset", "camvid", "--root", tmp_path / "link", "--images", "1")
    assert f"{tmp_path / 'link'} is a link: give the folder" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "link"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dataset", "ade2k"], "unknown dataset 'ade2k'; choose ade20k, camvid, cityscapes"),
        (["--dataset", "nowhere.Mine"], "dataset nowhere.Mine: No module named 'nowhere'"),
        (["--dataset", "segbench.data.base.SegmentationDataModule"], "not a data module with a spec"),
        (["--dataset", "../etc/passwd"], "unknown dataset '../etc/passwd'; choose"),
        (["--dataset", ".camvid"], "unknown dataset '.camvid'; choose"),
        (["--dataset", "camvid", "--images", "0"], "images=0"),
        (["--dataset", "camvid", "--size", "[10000000,10000000]"], "8 to 8192 pixels"),
        (["--dataset", "camvid", "--seed", "-1"], "seed=-1: give"),
    ],
)
def test_mistakes_take_one_line(options, message, tmp_path, capsys):
    assert message in run(capsys, "--root", tmp_path / "twin", *options)
    assert list(tmp_path.iterdir()) == []


def test_importing_the_command_does_not_import_torch():
    code = "import sys, segbench.commands.synth.command; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

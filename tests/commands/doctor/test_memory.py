"""A second visit reads only what has changed, and trusts nothing that it cannot vouch for."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from segbench.__main__ import main
from segbench.commands.doctor import cache as memory
from segbench.commands.doctor import diagnose
from segbench.commands.doctor.diagnose import visit
from segbench.data.folder import FolderDataModule
from segbench.utils.files import cache_folder

CLASSES = ["sky", "road", "car"]


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Six pairs in two splits, one mask with a palette; files count as settled at once."""
    monkeypatch.setenv("SEGBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(memory, "_SETTLED_NS", 0)
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for folder in ("images", "masks"):
            (tmp_path / "data" / folder / split).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(rng.integers(0, 256, (8, 12, 3), np.uint8)).save(path(tmp_path, "images", split, i))
            mask = Image.fromarray(np.arange(96, dtype=np.uint8).reshape(8, 12) % 3)
            if i == 1:
                mask.putpalette([1, 1, 1, 2, 2, 2, 3, 3, 3])
            mask.save(path(tmp_path, "masks", split, i))
    return lambda **options: FolderDataModule(tmp_path / "data", classes=CLASSES, num_workers=0, **options)


def path(root, folder, split, i):
    return root / "data" / folder / split / f"{i}.png"


@pytest.fixture
def read(monkeypatch):
    """Collects the images that were examined."""
    found = []

    def examine(layout, root, split, pair):
        found.append(f"{split}/{pair.name}")
        return original(layout, root, split, pair)

    original = diagnose.examine
    monkeypatch.setattr(diagnose, "examine", examine)
    return found


def test_a_second_visit_finds_the_same_and_reads_nothing(data, read):
    first = visit(data(), 2)
    assert len(read) == 6
    second = visit(data(), 2)
    assert len(read) == 6
    assert first.records == second.records
    assert first.findings == second.findings
    assert (first.recalled, second.recalled) == (0, 6)
    assert visit(data(), 2, cache=False).recalled == 0
    assert len(read) == 12


def change_mask(root):
    Image.fromarray(np.full((8, 12), 2, np.uint8)).save(path(root, "masks", "train", 0))


def same_size_and_time(root):
    target = path(root, "masks", "train", 0)
    before, content = target.stat(), bytearray(target.read_bytes())
    content[-20] ^= 1
    target.write_bytes(content)
    os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))


def touch_image(root):
    os.utime(path(root, "images", "train", 0), ns=(1, 1))


def add(root):
    for folder in ("images", "masks"):
        shutil.copy(path(root, folder, "train", 1), path(root, folder, "train", 7))


def remove_mask(root):
    path(root, "masks", "train", 0).unlink()


@pytest.mark.parametrize("change", [change_mask, same_size_and_time, touch_image, add, remove_mask])
def test_what_changed_is_read_and_nothing_else(data, read, tmp_path, change):
    visit(data(), 2)
    read.clear()
    change(tmp_path)
    after = visit(data(), 2)
    assert read == ["train/7" if change is add else "train/0"]
    fresh = visit(data(), 2, cache=False)
    assert after.records == fresh.records
    assert after.findings == fresh.findings


def test_removed_images_are_forgotten(data, read, tmp_path):
    visit(data(), 2)
    for folder in ("images", "masks"):
        path(tmp_path, folder, "val", 2).unlink()
    assert len(visit(data(), 2).records) == 5
    (file,) = (tmp_path / "cache/doctor").iterdir()
    assert len(json.loads(file.read_text().splitlines()[1])) == 5


def test_faulty_and_unsettled_files_are_read_again(data, read, tmp_path, monkeypatch):
    path(tmp_path, "images", "train", 0).write_bytes(b"no picture")
    visit(data(), 2)
    assert visit(data(), 2).recalled == 5
    monkeypatch.setattr(memory, "_SETTLED_NS", 10**12)
    change_mask(tmp_path)
    shutil.rmtree(tmp_path / "cache")
    visit(data(), 2)
    assert visit(data(), 2).recalled == 0


def test_other_options_of_the_layout_have_a_memory_of_their_own(data, read):
    visit(data(), 2)
    assert (
        visit(data(mask_suffix="", images=["images/{split}", "photos"], masks=["masks/{split}", "m"])).recalled
        == 0
    )
    assert visit(data()).recalled == 6


def test_other_code_trusts_nothing(data, read, monkeypatch):
    visit(data(), 2)
    monkeypatch.setattr(memory, "PACKAGES", ("numpy",))
    assert visit(data(), 2).recalled == 0


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: text.replace('"train"', '"traln"'),
        lambda text: "[]\n{}\n",
        lambda text: '{"code": 1}\n{}\n',
        lambda text: "\x80\x04K\x01.",
        lambda text: "[" * 100_000,
    ],
)
def test_a_damaged_or_foreign_memory_is_ignored(data, read, tmp_path, damage):
    first = visit(data(), 2)
    (file,) = (tmp_path / "cache/doctor").iterdir()
    file.write_text(damage(file.read_text()))
    second = visit(data(), 2)
    assert second.recalled == 0
    assert second.records == first.records
    assert visit(data(), 2).recalled == 6


def test_without_a_place_for_it_the_doctor_only_warns(data, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="next visit reads all files again"):
        assert len(visit(data(), 2).records) == 6


def test_the_command_says_how_many_it_knew(data, tmp_path, capsys):
    args = ["doctor", "--data", "segbench.data.folder.FolderDataModule", "--data.init_args.root"]
    args += [str(tmp_path / "data"), "--data.init_args.classes", str(CLASSES), "--num_workers", "1"]
    for options, said in (
        ([], "6 images read: 0 errors"),
        ([], "6 images read, 6 of them on an earlier visit: 0 errors"),
        (["--cache", "false"], "6 images read: 0 errors"),
    ):
        main([*args, *options])
        assert said in capsys.readouterr().out
    assert cache_folder() == tmp_path / "cache"

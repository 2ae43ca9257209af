"""What `segbench segment` takes: files, folders, patterns, links, names and photographs of all kinds."""

import os

import cv2
import numpy as np
import pytest
from PIL import Image
from reference.tiny_tasks import write_checkpoint

from segbench.__main__ import main


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("model") / "linear.ckpt", "linear")


def photograph(path, size=(24, 32)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    path.write_bytes(cv2.imencode(".png", image)[1].tobytes())
    return path


def run(checkpoint, *args):
    main(["segment", "--checkpoint", str(checkpoint), *map(str, args)])


def size(path):
    """Width and height."""
    with Image.open(path) as image:
        return image.size


def files(folder):
    """Everything below, links not followed."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def test_no_name_leads_out_of_the_folder(tmp_path, monkeypatch, checkpoint):
    work = tmp_path / "work"
    odd = ["..png.png", "...png", ".hidden.png", "a b;$(x).png", "line\nbreak.png", "back\\slash.png", "-x.png"]
    odd += [
        "ünïcødé.png",
        "u\u0308.png",
        "ü.png",
        "X.png",
        "x.png",
        f"{'long' * 60}.png",
        os.fsdecode(b"\xff.png"),
    ]
    for name in odd:
        photograph(work / "in" / name)
    photograph(tmp_path / "x.png")
    photograph(tmp_path / "far" / "x.png")
    (work / "link.png").symlink_to(tmp_path / "far" / "x.png")
    monkeypatch.chdir(work)
    before = files(tmp_path)
    hidden = [work / "in" / name for name in odd if name.startswith(".")]  # in folders they are passed over
    given = [work / "in", *hidden, "../x.png", tmp_path / "far" / "x.png", "link.png", "./link.png"]
    run(checkpoint, "--out", "out", "--", *given)
    written = files(tmp_path) - before
    assert all(path.startswith("work/out/") and path.count("/") == 2 for path in written)
    assert len({path for path in written if path.endswith("_overlay.png")}) == len(odd) + 3
    names = {path.removeprefix("work/out/") for path in written}
    # X and x are one name to some file systems, and of the given paths one is given twice.
    assert len({name for name in names if name.lower() in {"x.png", "x-2.png", "x-3.png", "x-4.png"}}) == 4
    assert {"link.png", "hidden.png", "line_break.png", "back_slash.png", "-x.png"} <= names
    assert not any(name.startswith(".") or not name.isprintable() for name in names)


def test_patterns_folders_and_files_each_once(tmp_path, monkeypatch, checkpoint, capsys):
    for name in ("one.png", "deep/two.png", "deep/.secret.png", "deep/deeper/three.png", "[1].png"):
        photograph(tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").write_text("image not found: in/none.png")
    monkeypatch.chdir(tmp_path)
    run(checkpoint, "in/**/*.*", "in", "in/one.png", "in/[1].png", "--out", "out")
    assert "4 of 4 photographs" in capsys.readouterr().out
    run(checkpoint, "in/*", "--out", "out2")
    assert "4 of 4 photographs" in capsys.readouterr().out
    for nothing, told in (("in/*.jpg", "no photographs"), ("in/none.png", "image not found: in/none.png")):
        with pytest.raises(SystemExit):
            run(checkpoint, nothing, "--out", "out3")
        assert told in capsys.readouterr().err
    assert not (tmp_path / "out3").exists()


def test_a_folder_is_its_own_output(tmp_path, checkpoint, capsys):
    image = np.zeros((24, 32, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "one.jpg"), image)
    for _ in range(2):  # its own PNGs are not photographs the second time
        run(checkpoint, tmp_path, "--out", tmp_path)
        assert "1 of 1 photographs" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff", "webp"])
def test_photographs_stand_upright(tmp_path, checkpoint, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    Image.fromarray(np.zeros((24, 40, 3), np.uint8)).save(tmp_path / f"turned.{suffix}", exif=exif)
    run(checkpoint, tmp_path / f"turned.{suffix}", "--out", tmp_path / "out")
    assert size(tmp_path / "out" / "turned.png") == (24, 40)
    assert size(tmp_path / "out" / "turned_overlay.png") == (24, 40)


def test_every_bad_file_is_named_and_the_rest_is_labelled(tmp_path, checkpoint, capsys):
    folder = tmp_path / "in"
    good = photograph(folder / "good.png").read_bytes()
    (folder / "cut.png").write_bytes(good[: len(good) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text\x1b[31m.jpg").write_text("image not found: in/none.png")
    (folder / "dangling.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / "folder.jpg").mkdir()
    os.mkfifo(folder / "pipe.jpg")  # to be waited for until the end of days
    photograph(folder / "thin.png", (1, 20000))  # not even a window fits
    with pytest.raises(SystemExit) as stop:
        run(checkpoint, folder, "--out", tmp_path / "out", "--window", "64")
    assert stop.value.code == 1
    out, err = capsys.readouterr()
    assert "1 of 7 photographs" in out
    skipped = [line for line in err.splitlines() if line.startswith("segbench: skipped: ")]
    assert len(skipped) == 6
    for name in ("cut.png", "empty.jpg", "text\\x1b[31m.jpg", "dangling.jpg", "pipe.jpg", "thin.png"):
        assert sum(name in line for line in skipped) == 1
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {
        "good.png",
        "good_color.png",
        "good_overlay.png",
    }


def test_photographs_of_many_sizes_in_batches(tmp_path, checkpoint):
    sizes = [(24, 32), (32, 24), (24, 32), (40, 24), (24, 32), (48, 24), (32, 24), (56, 24), (64, 24), (72, 24)]
    for index, shape in enumerate(sizes):
        photograph(tmp_path / "in" / f"{index}.png", shape)
    run(checkpoint, tmp_path / "in", "--out", tmp_path / "out", "--batch_size", "2")
    for index, shape in enumerate(sizes):
        assert size(tmp_path / "out" / f"{index}.png") == shape[::-1]


def test_a_link_to_a_folder_above_is_gone_round_once(tmp_path, monkeypatch, checkpoint):
    monkeypatch.chdir(tmp_path)
    photograph(tmp_path / "in" / "a" / "x.png")
    (tmp_path / "in" / "loop").symlink_to(".")  # through which Python's glob finds a/x.png forty times
    run(checkpoint, "in/**/*.png", "--out", "out")
    assert {name for name in files(tmp_path / "out") if "x" in name} == {
        "x.png",
        "x_color.png",
        "x_overlay.png",
    }

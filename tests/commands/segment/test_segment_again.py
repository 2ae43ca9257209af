"""`segbench segment` resumes where it was stopped, and destroys nothing."""

import errno
import json
import os
import pkgutil
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from reference.tiny_tasks import write_checkpoint

from segbench.__main__ import main
from segbench.commands.segment import images as photographs
from segbench.utils.lock import FolderLock


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("model") / "linear.ckpt", "linear")


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "in").mkdir()
    random = np.random.default_rng(3)
    for index in range(6):
        image = random.integers(0, 256, (40, 56, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / "in" / f"{index}.png"), image)
    return tmp_path / "in"


def run(checkpoint, *args):
    main(["segment", "--checkpoint", str(checkpoint), *map(str, args)])


def refused(capsys, *args):
    with pytest.raises(SystemExit) as stop:
        run(*args)
    assert stop.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("segbench: error: ")]
    return line


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.*") if path.name != "segment.jsonl"}


def times(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.png")}


def interrupt_after(monkeypatch, number, error=KeyboardInterrupt):
    """Stops the main thread while the next photograph is about to be written."""
    write, calls = photographs.write_outputs, []

    def stop(*args):
        calls.append(args)
        if len(calls) > number:
            (args[0] / f".segbench-{'0' * 32}.png").write_bytes(b"half")  # as a kill leaves it
            raise error
        return write(*args)

    monkeypatch.setattr(photographs, "write_outputs", stop)


def test_resuming_ends_with_the_same_files(tmp_path, checkpoint, photos, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        interrupt_after(patch, 3)
        with pytest.raises(SystemExit) as stop:
            run(checkpoint, photos, "--out", tmp_path / "out", "--batch_size", 1)
    assert stop.value.code == 130
    assert "the same command resumes" in capsys.readouterr().err
    before = times(tmp_path / "out")
    run(checkpoint, photos, "--out", tmp_path / "out", "--batch_size", 1)
    assert "6 of 6 photographs" in (said := capsys.readouterr().out)
    assert "3 of them from before" in said
    after = times(tmp_path / "out")
    kept = {name for name in before if name[0] in "012"}
    assert len(kept) == 9
    assert {name for name in after if before.get(name) == after[name]} == kept
    run(checkpoint, photos, "--out", tmp_path / "at_once", "--batch_size", 1)
    assert contents(tmp_path / "out") == contents(tmp_path / "at_once")


@pytest.mark.slow
def test_a_killed_process_leaves_whole_files(tmp_path, checkpoint, photos):
    for index in range(200):
        shutil.copy(photos / "0.png", photos / f"copy{index}.png")
    command = [sys.executable, "-m", "segbench", "segment", "--checkpoint", str(checkpoint), str(photos)]
    command += ["--out", str(tmp_path / "out"), "--batch_size", "1"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    record = tmp_path / "out" / "segment.jsonl"
    while process.poll() is None and not (record.is_file() and '"done"' in record.read_text()):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = record.read_text().count('"done"')
    assert 0 < done < 206
    for path in (tmp_path / "out").glob("[!.]*.png"):
        assert cv2.imread(str(path)) is not None
    run(checkpoint, photos, "--out", tmp_path / "out", "--batch_size", 1)
    run(checkpoint, photos, "--out", tmp_path / "at_once", "--batch_size", 1)
    assert contents(tmp_path / "out") == contents(tmp_path / "at_once")
    assert not list((tmp_path / "out").glob(".*"))


def test_a_changed_image_or_a_lost_output_is_labelled_again(tmp_path, checkpoint, photos, capsys):
    run(checkpoint, photos, "--out", tmp_path / "out")
    cv2.imwrite(str(photos / "1.png"), np.zeros((20, 30, 3), np.uint8))
    (tmp_path / "out" / "2_color.png").unlink()
    (tmp_path / "out" / "3.png").write_bytes(b"")
    capsys.readouterr()
    run(checkpoint, photos, "--out", tmp_path / "out")
    assert "3 of them from before" in capsys.readouterr().out
    assert cv2.imread(str(tmp_path / "out" / "1.png")).shape[:2] == (20, 30)
    assert cv2.imread(str(tmp_path / "out" / "3.png")).shape[:2] == (40, 56)


def test_more_photographs_join_under_names_of_their_own(tmp_path, checkpoint, photos):
    run(checkpoint, photos / "3.png", "--out", tmp_path / "out")
    before = contents(tmp_path / "out")
    other = tmp_path / "a" / "3.png"  # comes first in any order
    other.parent.mkdir()
    cv2.imwrite(str(other), np.zeros((20, 30, 3), np.uint8))
    run(checkpoint, other, photos, "--out", tmp_path / "out")
    after = contents(tmp_path / "out")
    assert before.items() - {"areas.csv": before["areas.csv"]}.items() <= after.items()
    assert cv2.imread(str(tmp_path / "out" / "3-2.png")).shape[:2] == (20, 30)
    assert after["areas.csv"].count(b"\n") == 1 + 3 * 7


def test_other_options_or_weights_need_another_folder(tmp_path, checkpoint, photos, capsys):
    out = tmp_path / "out"
    run(checkpoint, photos, "--out", out, "--probabilities")
    before = contents(out)
    other = write_checkpoint(tmp_path / "other.ckpt", "mask")
    assert "flip: False there, True here" in refused(
        capsys, checkpoint, photos, "--out", out, "--probabilities", "--flip"
    )
    assert "probabilities: True there, False here" in refused(capsys, checkpoint, photos, "--out", out)
    line = refused(capsys, other, photos, "--out", out, "--probabilities")
    assert "checkpoint: " in line
    assert "--overwrite" in line
    assert contents(out) == before
    run(other, photos, "--out", out, "--overwrite")
    run(other, photos, "--out", tmp_path / "fresh")
    assert contents(out) == contents(tmp_path / "fresh")  # without probabilities of the other model


@pytest.mark.parametrize("name", ["4_overlay.png", "areas.csv"])
def test_files_of_others_stay_as_they_are(tmp_path, checkpoint, photos, capsys, name):
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_bytes(b"made by hand")
    assert f"{name} is there, and no earlier" in refused(capsys, checkpoint, photos, "--out", out)
    assert contents(out) == {name: b"made by hand"}
    run(checkpoint, photos, "--out", out, "--overwrite")
    assert (out / name).read_bytes() != b"made by hand"


def test_links_in_the_folder_are_replaced_and_not_followed(tmp_path, checkpoint, photos):
    out = tmp_path / "out"
    run(checkpoint, photos, "--out", out)
    precious = tmp_path / "precious.txt"
    precious.write_text("precious")
    (out / "2.png").unlink()
    (out / "2.png").symlink_to(precious)
    run(checkpoint, photos, "--out", out)
    assert precious.read_text() == "precious"
    assert not (out / "2.png").is_symlink()


@pytest.mark.parametrize("damage", ["text", "name", "files"])
def test_a_foreign_or_damaged_record_is_refused(tmp_path, checkpoint, photos, capsys, damage):
    out = tmp_path / "out"
    run(checkpoint, photos / "0.png", "--out", out)
    head, name, done = (out / "segment.jsonl").read_text().splitlines()
    lines = {
        "text": ["hello"],
        "name": [head, json.dumps(json.loads(name) | {"name": "../precious"})],
        "files": [head, name, json.dumps(json.loads(done) | {"files": {"../precious.png": 1}})],
    }
    (out / "segment.jsonl").write_text("\n".join(lines[damage]) + "\n")
    assert "segment.jsonl is damaged" in refused(capsys, checkpoint, photos, "--out", out)


def test_a_record_cut_short_counts_as_far_as_it_goes(tmp_path, checkpoint, photos, capsys):
    out = tmp_path / "out"
    run(checkpoint, photos, "--out", out)
    record = out / "segment.jsonl"
    record.write_text(record.read_text()[:-20])
    run(checkpoint, photos, "--out", out)
    assert "5 of them from before" in capsys.readouterr().out


def test_two_at_once_do_not_share_a_folder(tmp_path, checkpoint, photos, capsys):
    (tmp_path / "out").mkdir()
    with FolderLock(tmp_path / "out", ""):
        line = refused(capsys, checkpoint, photos, "--out", tmp_path / "out")
        assert f"{tmp_path / 'out'} is being written to by `segbench" in line
        assert "give another --out" in line
    assert list((tmp_path / "out").iterdir()) == []


def test_a_full_disk_ends_it_and_keeps_what_is_done(tmp_path, checkpoint, photos, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2, OSError(28, "No space left on device", "out"))
        assert "No space left" in refused(
            capsys, checkpoint, photos, "--out", tmp_path / "out", "--batch_size", 1
        )
    run(checkpoint, photos, "--out", tmp_path / "out", "--batch_size", 1)
    assert "2 of them from before" in capsys.readouterr().out


PLACES = {
    "read": "segbench.commands.segment.reading.read_image",
    "labelled": "segbench.commands.segment.predictor.Predictor._label",
    "written": "segbench.commands.segment.images.write_outputs",
}
NO_MEMORY = [
    MemoryError("Unable to allocate 9.00 GiB for an array with shape (1,)"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory"),
]


@pytest.mark.parametrize("error", NO_MEMORY)
@pytest.mark.parametrize("place", PLACES)
def test_an_image_that_memory_does_not_hold_is_named_and_the_others_are_labelled(
    tmp_path, checkpoint, photos, monkeypatch, capsys, place, error
):
    large = photos / "1.png"
    cv2.imwrite(str(large), np.zeros((80, 90, 3), np.uint8))
    where, _, name = PLACES[place].rpartition(".")
    owner = pkgutil.resolve_name(where)
    original = getattr(owner, name)

    def fail(*args, **options):
        holds = [one for one in args if getattr(one, "shape", None) == (80, 90, 3)]
        batch = [one for one in args if isinstance(one, list) and one[0].shape == (80, 90, 3)]
        if holds or batch or any(isinstance(one, Path) and one == large for one in args):
            raise error
        return original(*args, **options)

    monkeypatch.setattr(owner, name, fail)
    with pytest.raises(SystemExit) as ended:
        run(checkpoint, photos, "--out", tmp_path / "out", "--batch_size", 1)
    assert ended.value.code == 1
    told = capsys.readouterr()
    assert "5 of 6" in told.out
    (line,) = [line for line in told.err.splitlines() if line.startswith("segbench: skipped: ")]
    assert str(large) in line
    assert "memory" in line
    assert "--window" in line
    assert "Traceback" not in told.err


def test_a_full_disk_names_the_file_and_keeps_what_is_done(tmp_path, checkpoint, photos, monkeypatch, capsys):
    """The third image does not fit any more; `write` of the system names no file, so that ours has to."""
    written, original = [], Path.write_bytes

    def write(path, data):
        written.append(path)
        if len(written) > 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", write)
        line = refused(capsys, checkpoint, photos, "--out", tmp_path / "out", "--batch_size", 1)
    assert (
        f"No space left on device: {tmp_path / 'out'}/2_color.png; free some space, or choose another" in line
    )
    assert "--out" in line
    assert not list((tmp_path / "out").glob(".segbench-*"))
    run(checkpoint, photos, "--out", tmp_path / "out", "--batch_size", 1)
    told = capsys.readouterr().out
    assert "6 of 6" in told
    assert "of them from before" in told

"""Atomic writes: a file has its old or its new content, and drafts do not accumulate."""

import errno
import io
import subprocess
import sys

import pytest
import torch

from segbench.utils import files
from segbench.utils.files import atomic_write, naming, remove_drafts, scratch


def test_error_leaves_the_old_file_and_no_draft(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail_half_way():
        with atomic_write(path) as draft:
            draft.write_text("half")
            assert path.read_text() == "old"
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert path.read_text() == "old"
    with atomic_write(path) as draft:
        draft.write_text("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_of_one_file_use_separate_drafts(tmp_path):  # as on two machines with equal process ids
    path = tmp_path / "file.txt"
    with atomic_write(path) as first, atomic_write(path) as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


KILLED = """
import os, sys
from pathlib import Path
from segbench.utils.files import atomic_write, scratch
with atomic_write(Path("file.txt")) as draft, scratch(Path.cwd()) as folder:
    draft.write_text("half")
    (folder / "picture.png").write_text("half")
    print("begun", flush=True)
    sys.stdin.readline()
"""


def test_drafts_of_dead_processes_are_removed_and_those_of_living_ones_kept(tmp_path):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", KILLED], cwd=tmp_path, **pipes) as process:
        assert process.stdout.readline() == "begun\n"
        foreign = [tmp_path / name for name in (".segbench-notes", f".{'0' * 32}.txt", ".segbench.yaml")]
        for path in foreign:
            path.write_text("not ours")
        remove_drafts(tmp_path)
        assert len(list(tmp_path.glob(".segbench-*"))) == 1 + 3
        process.kill()
    with atomic_write(tmp_path / "other.txt") as draft:  # the first write of this process into the folder
        draft.write_text("new")
    assert sorted(tmp_path.iterdir()) == sorted([*foreign, tmp_path / "other.txt"])


def test_draft_renamed_during_cleanup_is_kept(tmp_path, monkeypatch):
    """The draft is renamed between listing and locking, so that its name no longer exists."""
    path, take = tmp_path / "file.txt", files.try_lock

    def late(draft, *, create):
        if not create:
            draft.rename(path)
        return take(draft, create=create)

    monkeypatch.setattr(files, "try_lock", late)
    (tmp_path / f".segbench-{'0' * 32}.txt").write_text("new")
    remove_drafts(tmp_path)
    assert path.read_text() == "new"


def test_scratch_folder_is_removed_with_everything_not_moved_out(tmp_path):
    with scratch(tmp_path) as folder:
        (folder / "keep").mkdir()
        (folder / "drop").write_text("")
        (folder / "keep").rename(tmp_path / "kept")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    with scratch() as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()


def test_full_disk_error_has_the_final_path(tmp_path):
    def full(draft):
        raise OSError(28, "No space left on device")

    for write in (full, lambda draft: draft.rename(tmp_path / "nowhere" / "x")):
        with (
            pytest.raises(OSError, match="No s") as raised,
            atomic_write(tmp_path / "file.txt", durable=True) as draft,
        ):
            write(draft)
        assert raised.value.filename == str(tmp_path / "file.txt")
    with pytest.raises(FileNotFoundError) as raised, atomic_write(tmp_path / "file.txt"):
        (tmp_path / "unrelated").read_text()
    assert raised.value.filename == str(tmp_path / "unrelated")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError("57600 requested and 16256 written"),  # NumPy
        OSError("encoder error -2 when writing image file"),  # Pillow
        OSError("the weights: Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:603] . unexpected pos 64 vs 0"),  # torch
        RuntimeError("PytorchStreamWriter failed writing file data.pkl: file write failed"),
    ],
)
def test_full_disk_errors_of_libraries_get_errno_and_path(tmp_path, error):
    with pytest.raises(OSError, match="No space left") as raised, atomic_write(tmp_path / "kept"):
        raise error
    assert raised.value.errno == errno.ENOSPC
    assert raised.value.filename == str(tmp_path / "kept")
    assert not list(tmp_path.iterdir())


def test_errors_in_a_draft_folder_have_the_final_path(tmp_path):
    with pytest.raises(OSError, match="Read-only") as raised, naming(tmp_path / "set", tmp_path / ".draft"):
        raise OSError(errno.EROFS, "Read-only file system", str(tmp_path / ".draft" / "set" / "a.png"))
    assert raised.value.filename == str(tmp_path / "set")


def test_errors_of_reading_other_files_keep_their_path(tmp_path):
    with pytest.raises(FileNotFoundError) as raised, atomic_write(tmp_path / "kept"):
        (tmp_path / "missing").read_bytes()
    assert raised.value.filename == str(tmp_path / "missing")


def test_other_errors_are_unchanged(tmp_path):
    with pytest.raises(RuntimeError, match="a bug"), atomic_write(tmp_path / "kept"):
        raise RuntimeError("a bug")


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_interrupt_while_torch_writes_stays_an_interrupt(tmp_path, interrupt):
    class Slow(io.BufferedWriter):  # like a signal handler between two writes
        def write(self, data):
            if self.tell() > 1000:
                raise interrupt
            return super().write(data)

    path = tmp_path / "last.ckpt"
    with pytest.raises(interrupt), atomic_write(path) as draft, Slow(draft.open("wb", buffering=0)) as file:
        torch.save({"weights": torch.zeros(1000)}, file)
    assert list(tmp_path.iterdir()) == []

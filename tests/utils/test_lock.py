"""A folder has one writer, and the second is refused with a description of the first."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from segbench.utils import lock
from segbench.utils.lock import NAME, FolderLock

HOLD = """
import os, sys, time
from pathlib import Path
from segbench.utils.lock import FolderLock
sys.argv = ["segbench", "fit", "--storage", "postgresql://bob:secret@host/db"]
with FolderLock(Path.cwd(), ""):
    if os.fork() == 0:  # like a loader worker, which outlives a kill by some seconds
        print("held", flush=True)  # not earlier: the child closes the lock right after the fork
        time.sleep(60)
        os._exit(0)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of the folder and has forked a child."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", HOLD], cwd=tmp_path, start_new_session=True, **pipes)
    with process:
        assert process.stdout.readline() == "held\n"
        yield process
        os.killpg(process.pid, signal.SIGKILL)


def test_second_writer_is_refused_with_the_holder_and_changes_nothing(tmp_path, holder, monkeypatch):
    before = (tmp_path / NAME).read_text()
    with pytest.raises(ValueError, match="is being written to by") as refused:
        FolderLock(tmp_path, "choose another name").acquire()
    message = str(refused.value)
    assert f"(process {holder.pid} of " in message
    assert "SEGBENCH_LOCK_TIMEOUT=SECONDS in the environment, or choose another name" in message
    assert "postgresql://…@host/db" in message
    assert "secret" not in message + before
    assert (tmp_path / NAME).read_text() == before
    monkeypatch.setenv(lock.TIMEOUT_VARIABLE, "0.01")
    with pytest.raises(ValueError, match="is being written to by"):
        FolderLock(tmp_path, "").acquire()
    for wrong in ("soon", "-1", "nan", "inf"):
        monkeypatch.setenv(lock.TIMEOUT_VARIABLE, wrong)
        with pytest.raises(ValueError, match=f"SEGBENCH_LOCK_TIMEOUT is '{wrong}': set a number of seconds"):
            FolderLock(tmp_path, "").acquire()


def test_killed_holder_releases_the_lock_though_its_child_lives(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    os.killpg(holder.pid, 0)  # the child is still alive
    with FolderLock(tmp_path, ""):
        assert json.loads((tmp_path / NAME).read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_waiting_process_gets_the_lock_when_the_holder_ends(tmp_path, holder, monkeypatch, capsys):
    monkeypatch.setenv(lock.TIMEOUT_VARIABLE, "100")
    monkeypatch.setattr(lock.time, "sleep", lambda _: (holder.stdin.close(), holder.wait()))
    with FolderLock(tmp_path, ""):
        assert capsys.readouterr().err.startswith("segbench: waiting for `segbench fit")


def test_threads_take_turns_and_never_lock_a_removed_file(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_POLL_S", 0.0)
    inside, most = [], []

    def work():
        for _ in range(30):
            own = FolderLock(tmp_path, "")
            assert own.attempt(60, quiet=True)
            inside.append(1)
            most.append(len(inside))
            inside.pop()
            own.release()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 120
    assert list(tmp_path.iterdir()) == []


def test_file_system_without_locks_is_used_after_a_warning(tmp_path, monkeypatch, capsys):
    def unsupported(descriptor, blocking):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(lock, "lock_descriptor", unsupported)
    with FolderLock(tmp_path, ""):
        assert "without locks (No locks available): make sure that no other" in capsys.readouterr().err


def test_symbolic_link_instead_of_the_lock_file_is_not_followed(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / NAME).symlink_to(tmp_path / "mine.txt")
    with pytest.raises(OSError, match="symbolic links"):
        FolderLock(tmp_path, "").acquire()
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_damaged_lock_file_of_a_living_process_still_locks(tmp_path):
    with FolderLock(tmp_path, ""):
        Path(tmp_path / NAME).write_bytes(b"\0\0")
        with pytest.raises(ValueError, match="is being written to by another process: wait"):
            FolderLock(tmp_path, "").acquire()

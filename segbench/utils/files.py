"""Atomic writes of files and folders, removal of drafts that a kill left behind, and the cache folder.

A process locks its drafts while it lives. The next process that writes into the same folder removes the drafts
of dead processes and keeps those of living ones, on whichever machine they run.
"""

import errno
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from segbench.utils.lock import release, supported, try_lock

_DRAFT = re.compile(r"\.segbench-[0-9a-f]{32}(\..*)?")
_ON_WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}  # Python's write() names no file
# NumPy, Pillow, safetensors and torch's writer of archives only say that they could not write all of it.
_SHORT = re.compile(
    r"requested and \d+ written|encoder error -2|PytorchStreamWriter failed|unexpected pos \d+|iostream error"
    r"|os error 28"
)
_clean: set[Path] = set()  # folders in which this process has looked for drafts


def cache_folder(cache_dir: str | Path | None = None) -> Path:
    """Returns the folder for synthetic scenes, decoded labels, compiled kernels and features.

    Args:
        cache_dir: Chosen by the user; default: `$SEGBENCH_CACHE`, or `~/.cache/segbench`.

    Returns:
        Its path; it may not exist yet.
    """
    return Path(cache_dir or os.environ.get("SEGBENCH_CACHE") or "~/.cache/segbench").expanduser()


@contextmanager
def atomic_write(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Writes a file beside its place and moves it there when it is complete.

    A kill or an error in between leaves the previous file as it was.

    Args:
        path: Where the file is to stand.
        durable: Whether it must survive a loss of power from then on.

    Yields:
        Where to write it first: an empty file in the same folder, which is to be written to, not replaced.
    """
    draft, lock = _new_draft(path.parent, path.suffix)
    try:
        with naming(path, draft):
            yield draft
            if durable:
                _sync(draft)
            draft.replace(path)
            if durable:
                _sync(path.parent)
    finally:
        draft.unlink(missing_ok=True)
        release(lock)


@contextmanager
def naming(path: Path, draft: Path | None = None) -> Iterator[None]:
    """Adds to errors of writing which file or folder could not be written.

    The system names files that could not be opened, but not those that could not be filled.

    Args:
        path: To be named.
        draft: File or folder that becomes `path`; errors that name it, or what is in it, name `path` instead.

    Raises:
        OSError: Also in place of the errors by which libraries say that a write fell short.
        KeyboardInterrupt: Also in place of the errors by which torch says that one cut its writing short.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None and _SHORT.search(str(error)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        if error.filename is None:
            ours = error.errno in _ON_WRITING
        else:
            ours = draft is not None and Path(os.fsdecode(error.filename)).is_relative_to(draft)
        if ours:
            error.filename, error.filename2 = str(path), None  # which the user knows
        raise
    except RuntimeError as error:
        if isinstance(error.__context__, (KeyboardInterrupt, SystemExit)):
            raise error.__context__ from None  # torch's writer of archives cannot close what was interrupted
        if not _SHORT.search(str(error)):
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error


@contextmanager
def scratch(folder: Path | None = None) -> Iterator[Path]:
    """Makes a folder that is removed afterwards, also after a kill; what is to stay is moved out of it.

    Args:
        folder: Where it is made, such as the folder that its content is moved to; default: the system's for
            temporary files.

    Yields:
        Its path.
    """
    place, mode = (Path(tempfile.gettempdir()), 0o700) if folder is None else (folder, 0o777)
    beside, lock = _new_draft(place, ".lock")
    own = beside.with_suffix("")
    try:
        own.mkdir(mode)
        yield own
    finally:
        shutil.rmtree(own, ignore_errors=True)
        beside.unlink(missing_ok=True)
        release(lock)


def remove_drafts(folder: Path) -> None:
    """Removes from a folder the drafts of processes that are dead.

    Args:
        folder: Need not be there.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        for name in [entry.name for entry in entries if _DRAFT.fullmatch(entry.name)]:
            _remove_if_dead(folder / name)


def _remove_if_dead(draft: Path) -> None:
    with suppress(OSError):  # a folder, which its lock file stands for; somebody else's; no locks there
        lock = try_lock(draft, create=False)
        if lock is not None:
            if draft.suffix == ".lock":
                shutil.rmtree(draft.with_suffix(""), ignore_errors=True)
            draft.unlink(missing_ok=True)
            release(lock)


def _new_draft(folder: Path, suffix: str) -> tuple[Path, int]:
    """Makes an empty draft and locks it."""
    if folder not in _clean:
        _clean.add(folder)
        remove_drafts(folder)
    while True:
        # Not the process number: machines and containers that share a folder have the same ones.
        draft = folder / f".segbench-{uuid.uuid4().hex}{suffix}"
        try:
            lock = try_lock(draft, create=True)
        except OSError as error:
            if supported(error):
                raise
            return draft, -1
        if lock is not None:  # else another process took it for one of the dead, and removes it
            return draft, lock


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # folders, on some file systems
            raise
    finally:
        os.close(descriptor)

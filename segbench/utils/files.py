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
_ON_WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}  # OSErrors of write(), which name no file
# Messages of NumPy, Pillow, safetensors and torch about an incomplete write, which have no errno.
_SHORT = re.compile(
    r"requested and \d+ written|encoder error -2|PytorchStreamWriter failed|unexpected pos \d+|iostream error"
    r"|os error 28"
)
_clean: set[Path] = set()  # folders that this process has searched for drafts


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
    """Writes to a draft in the same folder and renames it to `path` when it is complete.

    After a kill or an error the previous file is unchanged.

    Args:
        path: The file to create or replace.
        durable: Sync to disk, so that the file survives a power failure.

    Yields:
        The draft, an empty file; write into it instead of replacing it.
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
    """Adds the path to errors about writing.

    The system reports the path of files that cannot be opened, but not of those that cannot be written in full.

    Args:
        path: The path to report.
        draft: File or folder that becomes `path`; errors about it, or a file in it, report `path` instead.

    Raises:
        OSError: Also instead of the exceptions that libraries raise for an incomplete write.
        KeyboardInterrupt: Also instead of the exception that torch raises when one interrupts its writing.
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
            raise error.__context__ from None  # torch cannot close an archive after an interrupt
        if not _SHORT.search(str(error)):
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error


@contextmanager
def scratch(folder: Path | None = None) -> Iterator[Path]:
    """Creates a temporary folder that is removed in the end, also after a kill; move results out of it.

    Args:
        folder: The parent, such as the folder that results are moved to; default: the system's folder for
            temporary files.

    Yields:
        The path of the temporary folder.
    """
    parent, mode = (Path(tempfile.gettempdir()), 0o700) if folder is None else (folder, 0o777)
    beside, lock = _new_draft(parent, ".lock")
    own = beside.with_suffix("")
    try:
        own.mkdir(mode)
        yield own
    finally:
        shutil.rmtree(own, ignore_errors=True)
        beside.unlink(missing_ok=True)
        release(lock)


def remove_drafts(folder: Path) -> None:
    """Removes the drafts of dead processes from a folder.

    Args:
        folder: Need not exist.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        for name in [entry.name for entry in entries if _DRAFT.fullmatch(entry.name)]:
            _remove_if_dead(folder / name)


def _remove_if_dead(draft: Path) -> None:
    with suppress(OSError):  # a folder, locked by its lock file; no permission; no support for locks
        lock = try_lock(draft, create=False)
        if lock is not None:
            if draft.suffix == ".lock":
                shutil.rmtree(draft.with_suffix(""), ignore_errors=True)
            draft.unlink(missing_ok=True)
            release(lock)


def _new_draft(folder: Path, suffix: str) -> tuple[Path, int]:
    """Creates an empty draft and locks it."""
    if folder not in _clean:
        _clean.add(folder)
        remove_drafts(folder)
    while True:
        # Not the process id: machines and containers that share a folder have equal ones.
        draft = folder / f".segbench-{uuid.uuid4().hex}{suffix}"
        try:
            lock = try_lock(draft, create=True)
        except OSError as error:
            if supported(error):
                raise
            return draft, -1
        if lock is not None:  # otherwise another process considers it abandoned and removes it
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

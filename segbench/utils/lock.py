"""Locks between processes, on one machine or on several that share a file system.

The kernel (`flock`) releases them however their process ends, `kill -9` included, so that none becomes stale.
They work on local disks and NFS; NFSv4 releases those of a machine that lost power within about 90 s. On file
systems without locks (Lustre mounted without `flock`) segbench writes without one, after a warning.
"""

import errno
import getpass
import json
import os
import re
import shlex
import socket
import sys
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType

from filelock import lock_descriptor

from segbench.utils.posix import NO_FOLLOW, NO_WAIT, in_child, user_id

NAME = ".segbench.lock"
TIMEOUT_VARIABLE = "SEGBENCH_LOCK_TIMEOUT"

_POLL_S = 0.5
_UNSUPPORTED = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}
_FLAGS = os.O_RDWR | NO_FOLLOW | NO_WAIT  # NFS locks only what is open for writing
_LONGEST = 300  # characters of a command in a message
_open: set[int] = set()  # descriptors of locks, which forked processes must close


def _close_in_child() -> None:
    """Closes the locks of the parent, which a loader worker that outlives it would keep."""
    while _open:
        os.close(_open.pop())


in_child(_close_in_child)


def try_lock(path: Path, *, create: bool) -> int | None:
    """Locks a file unless this or another process has already locked it.

    Args:
        path: The file.
        create: Create the file if it does not exist.

    Returns:
        A descriptor for `release`; None if the file is locked.

    Raises:
        FileNotFoundError: If the file does not exist.
        OSError: If it cannot be opened, or the file system has no locks.
    """
    while True:
        descriptor = os.open(path, _FLAGS | (os.O_CREAT if create else 0), 0o666)
        try:
            mine = lock_descriptor(descriptor, blocking=False)
            # The holder may have removed the file in between, which would leave the lock of a deleted file.
            if mine and not _is_at(descriptor, path):
                os.close(descriptor)
                continue
        except BaseException:
            os.close(descriptor)
            raise
        if not mine:
            os.close(descriptor)
            return None
        _open.add(descriptor)
        return descriptor


def release(descriptor: int) -> None:
    """Releases a lock of `try_lock`; does nothing in a forked process, which does not hold it."""
    if descriptor in _open:
        _open.discard(descriptor)
        os.close(descriptor)


def supported(error: OSError) -> bool:
    """Returns whether the file system supports locks, given an error of `try_lock`."""
    return error.errno not in _UNSUPPORTED


class FolderLock:
    """Exclusive right to write into a folder; readers need no lock.

    While the folder is locked, its file `.segbench.lock` describes the holder.

    Args:
        folder: An existing folder.
        otherwise: What the user can do instead of waiting, for the message.
    """

    def __init__(self, folder: Path, otherwise: str) -> None:
        self.folder = folder
        self._path = folder / NAME
        self._otherwise = otherwise
        self._descriptor: int | None = None

    def __enter__(self) -> "FolderLock":
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def acquire(self) -> None:
        """Takes the lock, waiting for up to `SEGBENCH_LOCK_TIMEOUT` seconds (default: 0).

        Raises:
            ValueError: If another process holds it.
            OSError: If the folder cannot be written to.
        """
        if self.attempt(_timeout()):
            return
        raise ValueError(
            f"{self.folder} is being written to by {self.holder()}: wait for it with"
            f" {TIMEOUT_VARIABLE}=SECONDS in the environment, or {self._otherwise}"
        )

    def attempt(self, seconds: float, quiet: bool = False) -> bool:
        """Takes the lock if it is or becomes free.

        Args:
            seconds: Longest time to wait.
            quiet: Do not print the holder on stderr while waiting.

        Returns:
            Whether this process holds the lock; true on a file system without locks.

        Raises:
            OSError: If the folder cannot be written to.
        """
        end = time.monotonic() + seconds
        announced = quiet
        while not self._try():
            if time.monotonic() >= end:
                return False
            if not announced:
                print(f"segbench: waiting for {self.holder()} to finish in {self.folder}", file=sys.stderr)
                announced = True
            time.sleep(_POLL_S)
        return True

    def release(self) -> None:
        """Releases the lock and removes its file."""
        if self._descriptor is None:
            return
        if self._descriptor in _open and _is_at(self._descriptor, self._path):
            with suppress(OSError):
                self._path.unlink()  # before others may lock it
        release(self._descriptor)
        self._descriptor = None

    def holder(self) -> str:
        """Returns a description of the process that holds the lock."""
        try:
            known = json.loads(self._path.read_text(encoding="utf-8"))
            return (
                f"`{known['command']}` (process {known['pid']} of {known['user']} on {known['host']}, since"
                f" {known['since']})"
            )
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"

    def _try(self) -> bool:
        if self._descriptor is not None:
            return True
        try:
            descriptor = try_lock(self._path, create=True)
        except OSError as error:
            if supported(error):
                raise
            print(
                f"segbench: warning: {self.folder} is on a file system without locks ({error.strerror}): make"
                " sure that no other process writes there",
                file=sys.stderr,
            )
            return True
        if descriptor is None:
            return False
        try:
            os.ftruncate(descriptor, 0)
            os.write(descriptor, _describe_process())
            os.fsync(descriptor)
        except OSError as error:
            if error.errno == errno.ESTALE:  # NFS: another machine has released the lock and removed its file
                release(descriptor)
                return False
        self._descriptor = descriptor
        return True


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except OSError:
        return False


def _describe_process() -> bytes:
    command = shlex.join(["segbench", *sys.argv[1:]])
    command = re.sub(r"(?<=://)[^\s/@']*@", "…@", command)  # user and password of a database
    command = "".join(letter if letter.isprintable() else "?" for letter in command)
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a user without a name, as in a container
        user = user_id()
    about = {
        "command": command if len(command) <= _LONGEST else f"{command[: _LONGEST - 1]}…",
        "pid": os.getpid(),
        "user": user,
        "host": socket.gethostname(),
        "since": datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
    }
    return json.dumps(about).encode()


def _timeout() -> float:
    given = os.environ.get(TIMEOUT_VARIABLE, "")
    try:
        seconds = float(given or 0)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"{TIMEOUT_VARIABLE} is {given!r}: set a number of seconds, 0 or more")
    return seconds

"""What Windows lacks of POSIX, in one place: the rest of the package imports and runs without it."""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

# By which clusters and users stop a job: SLURM sends SIGUSR1 before the time is up.
STOP_SIGNALS: tuple[signal.Signals, ...] = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)
)
TEMPFAIL: int = getattr(os, "EX_TEMPFAIL", 75)
NO_FOLLOW: int = getattr(os, "O_NOFOLLOW", 0)
NO_WAIT: int = getattr(os, "O_NONBLOCK", 0)


@contextmanager
def signals_blocked(numbers: Sequence[signal.Signals]) -> Iterator[None]:
    """Holds signals back from this thread, and from processes that are started within.

    Args:
        numbers: Which.
    """
    mask: Any = getattr(signal, "pthread_sigmask", None)
    if mask is None:
        yield
        return
    before = mask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        mask(signal.SIG_SETMASK, before)


def kill_group(leader: int | None = None) -> None:
    """Kills all processes of a group; on Windows, which has none, one process.

    Args:
        leader: Its first process; by default this process's own group.
    """
    if hasattr(os, "killpg"):
        os.killpg(os.getpgrp() if leader is None else leader, signal.SIGKILL)
    elif leader is None:
        os._exit(1)
    else:
        os.kill(leader, signal.SIGTERM)  # there the same as killing


def in_child(act: Any) -> None:
    """Has something done in every forked process.

    Args:
        act: Called without arguments.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=act)


def peak_resident() -> int:
    """Reads how many units of memory this process had at most: bytes on macOS, kibibytes on Linux.

    Returns:
        0 where the system does not say.
    """
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def user_id() -> str:
    """Names a user that has no name."""
    return str(os.getuid()) if hasattr(os, "getuid") else "unknown"

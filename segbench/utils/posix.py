"""What Windows lacks of POSIX, in one place: the rest of the package imports and runs without it."""

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
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

    Another thread may receive them all the same, upon which Python runs their handlers in the main one: in the
    midst of a fork, what a handler raises is printed and lost. So handlers run afterwards as well.

    Args:
        numbers: Which.
    """
    mask: Any = getattr(signal, "pthread_sigmask", None)
    if mask is None:
        yield
        return
    arrived: list[int] = []
    handlers: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.getsignal(number) for number in numbers}
        handlers = {number: handler for number, handler in handlers.items() if callable(handler)}
        for number in handlers:
            signal.signal(number, lambda number, _: arrived.append(number))
    before = mask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        mask(signal.SIG_SETMASK, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for again in dict.fromkeys(arrived):
            signal.raise_signal(again)


def is_importing(frame: FrameType | None) -> bool:
    """Tells whether a signal came while a module was being imported.

    A module that is half imported turns an exception into any other error, or swallows it.

    Args:
        frame: In which its handler was called.
    """
    while frame is not None and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


def stop_at_start(number: int, frame: FrameType | None) -> None:
    """Ends a training before it has begun, with the status by which a cluster queues it again.

    Args:
        number: Of the signal.
        frame: In which it came.

    Raises:
        SystemExit: With that status.
    """
    if os.environ.get("LOCAL_RANK", "0") == "0":  # it reaches all processes of a run
        os.write(2, f"segbench: stopped by {signal.Signals(number).name}\n".encode())
    if is_importing(frame):
        os._exit(TEMPFAIL)  # no file is being written then
    raise SystemExit(TEMPFAIL)


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

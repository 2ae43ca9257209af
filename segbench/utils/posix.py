"""POSIX features that Windows lacks, in one place, so that the rest of the package imports and runs there."""

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

# Signals by which clusters and users stop a job: SLURM sends SIGUSR1 before the time limit.
STOP_SIGNALS: tuple[signal.Signals, ...] = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)
)
TEMPFAIL: int = getattr(os, "EX_TEMPFAIL", 75)
NO_FOLLOW: int = getattr(os, "O_NOFOLLOW", 0)
NO_WAIT: int = getattr(os, "O_NONBLOCK", 0)


@contextmanager
def signals_blocked(numbers: Sequence[signal.Signals]) -> Iterator[None]:
    """Blocks signals in this thread and in processes that are started within.

    Another thread may still receive them, and Python then runs the handlers in the main thread; an exception
    that a handler raises during a fork is printed and lost. Handlers are therefore postponed as well.

    Args:
        numbers: The signals to block.
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
    """Returns whether a signal arrived while a module was being imported.

    A partially imported module may swallow an exception or turn it into another one.

    Args:
        frame: The interrupted frame, as passed to the handler.
    """
    while frame is not None and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


def stop_at_start(number: int, frame: FrameType | None) -> None:
    """Signal handler that ends a run before training starts, with the exit status that requeues the job.

    Args:
        number: The signal.
        frame: The interrupted frame.

    Raises:
        SystemExit: With status 75 (EX_TEMPFAIL).
    """
    if os.environ.get("LOCAL_RANK", "0") == "0":  # all processes of a run receive it
        os.write(2, f"segbench: stopped by {signal.Signals(number).name}\n".encode())
    if is_importing(frame):
        os._exit(TEMPFAIL)  # no file is being written then
    raise SystemExit(TEMPFAIL)


def kill_group(leader: int | None = None) -> None:
    """Kills a process group; on Windows, which has none, one process.

    Args:
        leader: Process id of the group leader; default: the group of this process.
    """
    if hasattr(os, "killpg"):
        os.killpg(os.getpgrp() if leader is None else leader, signal.SIGKILL)
    elif leader is None:
        os._exit(1)
    else:
        os.kill(leader, signal.SIGTERM)  # kills on Windows


def in_child(act: Any) -> None:
    """Registers a function to be called in every forked process.

    Args:
        act: Called without arguments.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=act)


def peak_resident() -> int:
    """Returns the peak resident memory of this process: bytes on macOS, kibibytes on Linux.

    Returns:
        0 if the system does not report it.
    """
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def user_id() -> str:
    """Returns the numeric id of the user, as text."""
    return str(os.getuid()) if hasattr(os, "getuid") else "unknown"

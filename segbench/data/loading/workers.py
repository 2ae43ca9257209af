"""DataLoaders whose worker processes ignore the job's signals and end with the command that started them.

Python joins the workers when it exits. Nothing wakes one that waits for work unless its iterator was shut down,
which Lightning leaves to the garbage collector for the loaders of the loop that an exception did not come from.
"""

import atexit
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import active_children
from typing import Any
from weakref import WeakSet

from torch.utils.data import DataLoader

from segbench.data.loading.dataset import Item
from segbench.utils.posix import STOP_SIGNALS, signals_blocked

# A terminal or a cluster sends these to every process of a job. The process that trains needs batches until it
# has saved, and decides when the workers end.
_SIGNALS = (signal.SIGINT, *STOP_SIGNALS)
_iterators: WeakSet[Any] = WeakSet()


class WorkerLoader(DataLoader[Item]):
    """A DataLoader whose worker processes `workers_ended` and the exit of the interpreter shut down."""

    def __iter__(self) -> Any:
        # Blocked signals are inherited: a worker ignores them from its first instruction, and one that arrives
        # here meanwhile is delivered afterwards.
        others = set(active_children())
        with signals_blocked(_SIGNALS):
            try:
                iterator = super().__iter__()
            except BaseException:  # such as no memory for one more process: no iterator ends the rest
                _kill(set(active_children()) - others)
                raise
        if self.num_workers:
            _iterators.add(iterator)
        return iterator


@contextmanager
def workers_ended() -> Iterator[None]:
    """Shuts down the worker processes that were started within, whichever way it is left."""
    before = set(_iterators)
    try:
        yield
    finally:
        _end(set(_iterators) - before)


def _end(iterators: set[Any]) -> None:
    for iterator in iterators:
        iterator._shutdown_workers()
        _kill(
            worker for worker in iterator._workers if worker.is_alive()
        )  # as torch cannot: SIGTERM is blocked


def _kill(workers: Iterable[Any]) -> None:
    for worker in workers:
        worker.kill()
        worker.join()


# torch.utils.data and multiprocessing register theirs when they are imported, so this runs before them.
atexit.register(lambda: _end(set(_iterators)))

"""Time of several callables side by side, and the peak memory of one."""

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import NamedTuple

import torch


class Timing(NamedTuple):
    """How long one callable took.

    Attributes:
        median_s: Median of its runs in seconds.
        ratio: Median over the runs of its time divided by that of the first callable in the same round.
    """

    median_s: float
    ratio: float


def time_side_by_side(
    candidates: Mapping[str, Callable[[], object]], repeats: int, device: torch.device
) -> dict[str, Timing]:
    """Times callables in turn, so that other work on the machine hits all of them alike.

    Args:
        candidates: What to time, by name; the first is what the others are compared with.
        repeats: Rounds, after one that is not counted.
        device: Where they work; a GPU is waited for.

    Returns:
        The timing of each.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for counts in [False] + [True] * repeats:
        for name, work in candidates.items():
            _wait(device)
            start = time.perf_counter()
            work()
            _wait(device)
            if counts:
                seconds[name].append(time.perf_counter() - start)
    first = next(iter(seconds.values()))
    return {
        name: Timing(median(runs), median(run / other for run, other in zip(runs, first, strict=True)))
        for name, runs in seconds.items()
    }


def peak_bytes(work: Callable[[], object], device: torch.device) -> int:
    """Measures how far the memory held by tensors rises while a callable runs.

    Args:
        work: The callable; what it returns is dropped.
        device: Where it works.

    Returns:
        Bytes above what was held at the start, as the allocator counts them.
    """
    if device.type == "cuda":
        _wait(device)
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        work()
        _wait(device)
        return torch.cuda.max_memory_allocated(device) - held
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, acc_events=True
    ) as profile:
        work()
    events = profile.profiler.kineto_results.events() if profile.profiler is not None else []
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    held = peak = 0
    for _, change in changes:
        held += change
        peak = max(peak, held)
    return peak


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

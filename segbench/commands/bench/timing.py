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
        seconds: Every run.
        ratios: Every run's time divided by that of the first callable in the same round.
    """

    median_s: float
    ratio: float
    seconds: tuple[float, ...] = ()
    ratios: tuple[float, ...] = ()


def time_side_by_side(
    candidates: Mapping[str, Callable[[], object]], repeats: int, device: torch.device, warm_up: int = 1
) -> dict[str, Timing]:
    """Times callables in turn, so that other work on the machine hits all of them alike.

    Args:
        candidates: What to time, by name; the first is what the others are compared with.
        repeats: Rounds that count.
        device: Where they work. On a GPU its own clock is read, and what was queued before is waited for.
        warm_up: Rounds before those, which do not count.

    Returns:
        The timing of each.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for counts in [False] * warm_up + [True] * repeats:
        for name, work in candidates.items():
            elapsed = _seconds(work, device)
            if counts:
                seconds[name].append(elapsed)
    first = next(iter(seconds.values()), [])
    ratios = {
        name: [run / other for run, other in zip(runs, first, strict=True)] for name, runs in seconds.items()
    }
    return {
        name: Timing(median(runs), median(ratios[name]), tuple(runs), tuple(ratios[name]))
        for name, runs in seconds.items()
    }


def peak_bytes(work: Callable[[], object], device: torch.device) -> int:
    """Measures how far the memory held by tensors rises while a callable runs.

    What a callable takes from the system past torch's allocators is not seen.

    Args:
        work: The callable; what it returns is dropped.
        device: Where it works.

    Returns:
        Bytes above what was held at the start, as the allocator counts them.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
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


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        work()
        return time.perf_counter() - start
    torch.cuda.synchronize(device)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    begin.record()
    work()
    end.record()
    torch.cuda.synchronize(device)
    return float(begin.elapsed_time(end)) / 1e3  # from milliseconds

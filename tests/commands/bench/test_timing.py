import torch

from segbench.commands.bench import timing
from segbench.commands.bench.timing import peak_bytes, time_side_by_side

CPU = torch.device("cpu")


def test_candidates_take_turns_and_the_first_rounds_do_not_count():
    calls = []
    candidates = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    timings = time_side_by_side(candidates, 3, CPU, warm_up=2)
    assert calls == ["a", "b"] * 5
    assert list(timings) == ["a", "b"]
    assert timings["a"].ratio == 1
    assert all(len(timing.seconds) == 3 and min(timing.seconds) > 0 for timing in timings.values())


def test_ratios_are_formed_within_rounds(monkeypatch):
    """One slow round hits both: the ratio of medians would be 3, that of every round is 2."""
    now = 0.0
    durations = iter([1, 2, 10, 20, 3, 6])

    def work():
        nonlocal now
        now += next(durations)

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now)
    timings = time_side_by_side({"a": work, "b": work}, 3, CPU, warm_up=0)
    assert timings["b"].seconds == (2, 20, 6)
    assert timings["b"].median_s == 6
    assert timings["b"].ratios == (2, 2, 2)


def test_peak_counts_what_was_held_at_the_same_time():
    def one_after_the_other():
        for _ in range(3):
            torch.empty(1 << 20, dtype=torch.uint8)

    def together():
        return [torch.empty(1 << 20, dtype=torch.uint8) for _ in range(3)]

    assert peak_bytes(one_after_the_other, CPU) == 1 << 20
    assert peak_bytes(together, CPU) == 3 << 20

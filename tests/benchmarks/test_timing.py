import torch

from segbench.benchmarks.timing import peak_bytes, time_side_by_side

CPU = torch.device("cpu")


def test_candidates_take_turns_and_the_first_round_does_not_count():
    calls = []
    timings = time_side_by_side({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3, CPU)
    assert calls == ["a", "b"] * 4
    assert list(timings) == ["a", "b"]
    assert timings["a"].ratio == 1
    assert all(timing.median_s > 0 and timing.ratio > 0 for timing in timings.values())


def test_peak_counts_what_was_held_at_the_same_time():
    def one_after_the_other():
        for _ in range(3):
            torch.empty(1 << 20, dtype=torch.uint8)

    def together():
        return [torch.empty(1 << 20, dtype=torch.uint8) for _ in range(3)]

    assert peak_bytes(one_after_the_other, CPU) == 1 << 20
    assert peak_bytes(together, CPU) == 3 << 20

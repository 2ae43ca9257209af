import torch

from segbench.commands.bench.mean_shift import Case, section
from segbench.commands.bench.section import Clock
from segbench.kernels import mean_shift


def test_a_small_case_is_measured(monkeypatch):
    monkeypatch.setattr(mean_shift, "MANY_TOKENS", 0)
    monkeypatch.setattr(mean_shift, "TILE", (64, 64))
    (measure,) = section([Case(256, 8, 12, 2)]).cases.values()
    plain, ours = measure(Clock(torch.device("cpu"), repeats=1))
    assert (plain["variant"], ours["variant"]) == ("plain", "segbench")
    assert all(row["median_s"] > 0 and 0 < row["gradient_error"] < 1e-4 for row in (plain, ours))
    assert 0 < ours["peak_ratio"] < 1  # the matrix was held by one of them only

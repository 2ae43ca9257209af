import torch

from segbench.benchmarks.kernels import Case, bench_loss, table


def test_a_small_case_is_measured_and_laid_out():
    rows = bench_loss(Case(20, 64, 2), repeats=1, device=torch.device("cpu"))
    assert [row.backend for row in rows] == ["plain", "chunked"]
    assert all(row.timing.median_s > 0 and row.peak_bytes > 0 for row in rows)
    assert all(0 < row.error < 1e-5 for row in rows)
    lines = table(rows).splitlines()
    assert len(lines) == 4
    assert {line.count("|") for line in lines} == {11}
    assert "| 20 | 64² | 2 | 16 | plain |" in lines[2]

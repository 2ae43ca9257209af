import pytest
import torch

from segbench.commands.bench.attention import Case, section
from segbench.commands.bench.section import Clock
from segbench.kernels import native


@pytest.mark.skipif(not native.available(), reason="no C compiler")
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_small_case_is_measured(dropout):
    (measure,) = section([Case(600, dropout, num_heads=2, width=8, batch=1)]).cases.values()
    rows = {row["variant"]: row for row in measure(Clock(torch.device("cpu"), repeats=1))}
    assert list(rows) == ["plain", "torch", "segbench"]
    assert all(row["median_s"] > 0 for row in rows.values())
    if dropout:
        assert not any("gradient_error" in row for row in rows.values())
        assert 0 < rows["segbench"]["peak_ratio"] < 0.5 * rows["torch"]["peak_ratio"]  # which holds matrices
    else:
        assert all(0 < row["gradient_error"] < 1e-4 for row in rows.values())
        assert 0 < rows["segbench"]["peak_ratio"] < 0.5

"""`segbench bench startup` times commands and lists what they import."""

import torch

from segbench.commands.bench.section import Clock
from segbench.commands.bench.startup import BASELINE, COMMANDS, measure


def test_a_command_is_timed_beside_the_imports_and_its_heavy_packages_are_listed():
    rows = measure("fit --help", COMMANDS["fit --help"], Clock(torch.device("cpu"), repeats=1, warm_up=0))
    assert [row["variant"] for row in rows] == [BASELINE, "segbench"]
    assert rows[0]["ratio"] == 1
    assert all(row["median_s"] > 0 for row in rows)
    assert rows[1]["imported"] == []

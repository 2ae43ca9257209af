"""25 kills: finished results are kept, all results equal those of an undisturbed run, no other files remain."""

import fork_server
import pytest
from kill_rounds import WORKLOADS, prepare, rounds, sweep_rounds

KILLS = {"fit": 8, "feature cache": 5, "segment": 5, "export huggingface": 2, "export safetensors": 2}


@pytest.fixture
def folder(tmp_path):
    """A folder with the inputs of all workloads."""
    fork_server.start()
    (tmp_path / "workloads").mkdir()
    prepare(tmp_path / "workloads")
    return tmp_path / "workloads"


@pytest.mark.slow
@pytest.mark.parametrize("name", WORKLOADS)
def test_kills_at_any_write_do_not_change_results(folder, name):
    assert list(rounds(folder, WORKLOADS[name], KILLS[name], seed=1)) == []


@pytest.mark.slow
def test_sweep_killed_three_times_ends_like_an_undisturbed_one(folder):
    assert list(sweep_rounds(folder, kills=3)) == []

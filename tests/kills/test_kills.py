"""25 kills: nothing finished is lost, results equal those of an undisturbed run, nothing is left behind."""

import fork_server
import pytest
from kill_rounds import WORKS, prepare, rounds, sweep_rounds

KILLS = {"fit": 8, "feature cache": 5, "segment": 5, "export huggingface": 2, "export safetensors": 2}


@pytest.fixture
def place(tmp_path):
    """A folder with what is killed."""
    fork_server.start()
    (tmp_path / "place").mkdir()
    prepare(tmp_path / "place")
    return tmp_path / "place"


@pytest.mark.slow
@pytest.mark.parametrize("name", WORKS)
def test_kills_at_any_write_leave_no_trace_in_the_results(place, name):
    assert list(rounds(place, WORKS[name], KILLS[name], seed=1)) == []


@pytest.mark.slow
def test_a_sweep_that_is_killed_three_times_ends_as_one_that_is_not(place):
    assert list(sweep_rounds(place, kills=3)) == []

"""Trials in a storage that several processes share: none lost, none run twice, kills survived."""

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
import yaml

from segbench.commands.sweep.file import read_sweep
from segbench.commands.sweep.loop import work
from segbench.commands.sweep.study import Study

GRID = {
    "command": ["segbench", "fit", "--config", "${args_json_file}"],
    "method": "grid",
    "metric": {"name": "score", "goal": "maximize"},
    "parameters": {"a": {"values": [0, 1]}, "b": {"values": [None, True, 1, "x", [1, {"y": False}]]}},
}
WIDE = GRID | {"parameters": {"a": {"values": list(range(20))}}}
RANDOM = GRID | {
    "method": "random",
    "run_cap": 6,
    "parameters": {"lr": {"min": 1.0e-5, "max": 1.0e-1, "distribution": "log_uniform_values"}},
}

# Runs a sweep whose trials only write down that they ran; each takes as long as argv[3] says.
WORKER = """
import os, sys, time
from pathlib import Path
from segbench.commands.sweep.file import read_sweep
from segbench.commands.sweep.loop import work
from segbench.commands.sweep.study import Study

file, storage, seconds, grace = sys.argv[1:5]
class Stub:
    def __init__(self, claim, worker):
        with open("begun", "a") as log: log.write(f"{claim.slot}\\n")
        self.claim, self.end = claim, time.monotonic() + float(seconds)
    def poll(self):
        if time.monotonic() < self.end: return None
        if not hasattr(self, "done"):
            self.done = True
            with open("ended", "a") as log: log.write(f"{self.claim.slot}\\n")
        return 0
    def kill(self): pass
    def reports(self, metric): return [float(self.claim.slot)]
    def error(self): return ""
study = Study(read_sweep(Path(file)), storage, grace_s=float(grace))
work(study, Stub, 1, lambda: None, lambda *_: None, poll_s=0.02)
"""


class Stub:
    """A trial that reports some values, then ends with a status."""

    def __init__(self, values=(0.5,), status=0):
        self.values, self.status, self.killed = list(values), status, False
        self.polls = 0

    def poll(self):
        self.polls += 1
        return self.status if self.polls > len(self.values) else None

    def kill(self):
        self.killed = True

    def reports(self, metric):
        return self.values[: self.polls]

    def error(self):
        return "out of memory"


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def study(content=GRID, **options):
    Path("sweep.yaml").write_text(yaml.safe_dump(content))
    return Study(read_sweep(Path("sweep.yaml")), "sqlite:///study.db", **options)


def run(of, start, workers=1):
    said = []
    well = work(of, start, workers, lambda: None, lambda claim, *what: said.append((claim.slot, *what)), 0.0)
    return well, said


def begin(seconds="0.1", grace="60"):
    return subprocess.Popen([sys.executable, "-c", WORKER, "sweep.yaml", "sqlite:///study.db", seconds, grace])


def lines(name):
    return [int(line) for line in Path(name).read_text().split()] if Path(name).exists() else []


def test_three_processes_share_a_storage_and_none_of_their_trials_is_lost_or_run_twice(place):
    Path("sweep.yaml").write_text(yaml.safe_dump(WIDE))  # all three make the study at the same moment
    crew = [begin() for _ in range(3)]
    assert [process.wait(120) for process in crew] == [0, 0, 0]
    assert Counter(lines("ended")) == dict.fromkeys(range(20), 1)
    assert Counter(lines("begun")) == dict.fromkeys(range(20), 1)
    assert Counter(standing.state for standing in study(WIDE).standings()) == {"complete": 20}


def test_who_comes_after_a_kill_runs_what_is_not_done_and_nothing_else(place):
    Path("sweep.yaml").write_text(yaml.safe_dump(GRID))
    for trials in (2, 5):
        process = begin()
        while len(lines("ended")) < trials:
            time.sleep(0.02)
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = {standing.slot for standing in study().standings() if standing.state == "complete"}
    assert len(done) >= 3
    assert begin(seconds="0", grace="1").wait(120) == 0
    begun = Counter(lines("begun"))
    assert set(begun) == set(range(10))
    assert {begun[slot] for slot in done} == {1}
    assert sum(begun.values()) <= 12  # what each kill met
    assert Counter(standing.state for standing in study().standings()) == {"complete": 10}


def test_the_values_of_a_grid_survive_the_storage_as_they_are(place):
    points = []
    run(study(), lambda claim, worker: points.append(claim.point) or Stub())
    told = [json.dumps(point) for point in points]
    assert told == [
        json.dumps({"a": a, "b": b}) for a in range(2) for b in [None, True, 1, "x", [1, {"y": False}]]
    ]


def test_random_trials_are_the_same_for_every_worker(place):
    first = []
    run(study(RANDOM), lambda claim, worker: first.append(claim.point["lr"]) or Stub())
    Path("study.db").unlink()
    again = []

    def start(claim, worker):
        again.append(claim.point["lr"])
        return Stub()

    for trials in (2, 4, 6):  # interrupted twice; each time drawn by a process that knows nothing
        run(study(RANDOM | {"run_cap": trials}), start)
    assert again == first
    assert len(set(first)) == 6
    assert all(1e-5 <= value <= 1e-1 for value in first)
    assert min(first) < 1e-3 < max(first)


def test_bayesian_search_finds_the_hill(place):
    def start(claim, worker):
        return Stub([-((claim.point["x"] - 0.3) ** 2)])

    hill = GRID | {"method": "bayes", "run_cap": 30, "parameters": {"x": {"min": -10.0, "max": 10.0}}}
    of = study(hill)
    run(of, start)
    late = [abs(standing.point["x"] - 0.3) for standing in of.standings()[15:]]
    assert sorted(late)[7] < 2.5  # random would have a median of 5


def test_a_trial_worse_than_the_median_is_stopped_after_the_first_rung(place):
    jobs = {}

    def start(claim, worker):
        slot = claim.slot
        jobs[slot] = Stub([0.1, 0.1, 0.1, 0.1] if slot == 7 else [0.2, 0.4, 0.6, 0.7])
        return jobs[slot]

    of = study(GRID | {"early_terminate": {"type": "hyperband", "min_iter": 3}})
    well, said = run(of, start)
    assert well
    assert (7, "pruned", "") in said
    assert jobs[7].killed
    assert jobs[7].polls == 3
    assert Counter(standing.state for standing in of.standings()) == {"complete": 9, "pruned": 1}
    assert of.standings()[7].value == 0.1


def test_a_failed_trial_is_told_and_run_again_by_the_next_start_alone(place):
    begun = []

    def start(claim, worker):
        begun.append(claim.slot)
        return Stub(status=1 if claim.slot == 3 and begun.count(3) == 1 else 0)

    well, said = run(study(), start)
    assert not well
    assert (3, "failed", "status 1: out of memory") in said
    assert study().standings()[3].note == "status 1: out of memory"
    begun_before = len(begun)
    well, _ = run(study(), start)
    assert well
    assert begun[begun_before:] == [3]


def test_a_sweep_stops_when_nothing_works(place):
    begun = []
    with pytest.raises(ValueError, match="trial 2 failed like all before it: status 1: out of memory"):
        run(study(), lambda claim, worker: begun.append(claim.slot) or Stub(status=1), workers=2)
    assert len(begun) == 2


def test_an_interruption_by_hand_leaves_the_trial_waiting(place):
    jobs = []

    def start(claim, worker):
        jobs.append(Stub())
        if claim.slot == 2:
            raise KeyboardInterrupt
        return jobs[-1]

    with pytest.raises(KeyboardInterrupt):
        run(study(), start)
    states = [standing.state for standing in study(grace_s=0.0).standings()]
    assert states[:2] == ["complete", "complete"]
    assert set(states[3:]) == {"waiting"}
    time.sleep(0.01)
    well, said = run(study(grace_s=0.0), lambda claim, worker: Stub())
    assert well
    assert {slot for slot, *_ in said} == set(range(2, 10))


def test_a_trial_given_up_for_dead_is_left_to_who_took_it_over(place):
    one = study()
    one.fill()
    claim = one.claim()
    two = study(grace_s=-1.0)
    two.fill()
    assert two.claim().slot == claim.slot + 1
    assert not one.report(claim, 1, 0.5)
    assert not one.beat(claim)
    one.finish(claim, "failed", note="too late")
    one.finish(claim, "complete", 0.5)
    slots = []
    while (taken := two.claim()) is not None:
        slots.append(taken.slot)
    assert claim.slot in slots


@pytest.mark.parametrize("shift", [-86400.0, 0.0, 120.0, 86400.0])
def test_the_dead_are_found_and_the_living_kept_whatever_clocks_say(place, monkeypatch, shift):
    clock = SimpleNamespace(now=1000.0, wall=time.time())
    stub = SimpleNamespace(monotonic=lambda: clock.now, time=lambda: clock.wall)
    monkeypatch.setattr("segbench.commands.sweep.study.time", stub)
    one = study()
    one.fill()
    living, dead = one.claim(), one.claim()
    unheard = one._study.ask().user_attrs["slot"]  # killed before its first heartbeat
    two = study(grace_s=60.0)
    clock.wall += shift  # another machine's, or set meanwhile

    def states():
        clock.now += 20.0
        assert one.beat(living)
        two.fill()
        return {standing.slot: standing.state for standing in two.standings()}

    for _ in range(3):
        assert set(states().values()) == {"running", "waiting"}
    found = [states(), states()][-1]
    assert (found[living.slot], found[dead.slot], found[unheard]) == ("running", "waiting", "waiting")
    assert not one.beat(dead)
    again = [two.claim() for _ in range(9)]
    assert {dead.slot, unheard} < {claim.slot for claim in again}
    assert living.slot not in {claim.slot for claim in again}
    clock.now += 1000.0  # this process looks again after hours of work: the living have beaten meanwhile
    assert one.beat(living)
    two.fill()
    assert one.beat(living)


def test_a_slot_that_waits_twice_is_run_once(place):
    one = study()
    one.fill()
    optuna.load_study(study_name="sweep", storage="sqlite:///study.db").enqueue_trial(
        {"a": "0", "b": "null"}, user_attrs={"slot": 0}
    )
    _, said = run(one, lambda claim, worker: Stub())
    assert Counter(slot for slot, state, _ in said if state == "complete") == dict.fromkeys(range(10), 1)


BELLS = RANDOM | {
    "parameters": {
        "x": {"distribution": "normal", "mu": 2.0, "sigma": 0.5},
        "y": {"values": [[1], None], "probabilities": [0.25, 0.75]},
    }
}


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_bells_and_odds_survive_the_storage(place, method):
    given = []
    one = study(BELLS | {"method": method})
    assert run(one, lambda claim, _: given.append(claim.point) or Stub())[0]
    assert [standing.point for standing in one.standings()] == given
    assert all(0 < point["x"] < 4 and point["y"] in ([1], None) for point in given)
    assert len({point["x"] for point in given}) == 6


def test_a_slot_that_waited_twice_keeps_its_values_when_its_trial_is_abandoned(place):
    """The double is newer than the trial that counts, but never had values."""
    bayes = RANDOM | {"method": "bayes", "run_cap": 14}  # the first ten are drawn by the slot's number alone
    one = study(bayes)
    one.fill()
    one._study.enqueue_trial({}, user_attrs={"slot": 0})
    claims = []
    while (claim := one.claim()) is not None:
        claims.append(claim)
    assert sorted(claim.slot for claim in claims) == list(range(14))
    for claim in claims[1:]:
        one.finish(claim, "complete", value=float(claim.slot))
    other = study(bayes, grace_s=-1.0)
    other.fill()
    assert other.claim().point == claims[0].point


def test_another_sweep_of_the_same_name_is_refused(place):
    study()
    with pytest.raises(ValueError, match="another command, metric or parameters"):
        study(GRID | {"parameters": {"a": {"values": [0]}}})
    with pytest.raises(ValueError, match="give a URL") as error:
        Study(read_sweep(Path("sweep.yaml")), "postgresql+nothing://me:secret@host/x")
    assert "secret" not in str(error.value)

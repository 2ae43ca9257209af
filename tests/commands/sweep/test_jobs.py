"""Processes of trials: which GPU they get, what is read of them, and that they die with their sweep."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import segbench
from segbench.commands.sweep.devices import deal, free_gpus, parse_gpus
from segbench.commands.sweep.job import read_metric

PRINTED = "0, GPU-aa, 3, 81559\n1, GPU-bb, 40000, 81559\n2, GPU-cc, 512, 81559\n3, GPU-dd, [N/A], [N/A]\n"


def test_free_gpus_are_those_without_a_computation_that_may_be_used():
    assert parse_gpus(PRINTED, None) == ["0", "2", "3"]
    assert parse_gpus(PRINTED, ["1", "GPU-cc"]) == ["GPU-cc"]
    assert parse_gpus("", None) == []


@pytest.mark.parametrize(
    ("gpus", "workers", "shares"),
    [
        ("012", None, ["0", "1", "2"]),
        ("0123", 2, ["0,2", "1,3"]),
        ("01", 3, ["0", "1", "0"]),
        (None, None, [None]),
        (None, 2, [None, None]),
        ("", 2, [None, None]),
    ],
)
def test_gpus_are_dealt_out(gpus, workers, shares):
    given = None if gpus is None else list(gpus)
    assert [share.get("CUDA_VISIBLE_DEVICES") for share in deal(given, workers)] == shares


def test_a_sweep_does_not_push_in_where_others_compute_on_every_gpu(tmp_path, monkeypatch):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho '0, GPU-aa, 40000, 81559'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(ValueError, match="no GPU is free"):
        deal(free_gpus(), None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # the user wants none of them
    assert deal(free_gpus(), None) == [{}]


def test_processors_are_shared_out_where_nobody_has_said_otherwise(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 9)
    assert all("OMP_NUM_THREADS" not in share for share in deal(None, 2))  # the tests have said otherwise
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert [share["OMP_NUM_THREADS"] for share in deal(None, 2)] == ["4", "4"]
    assert deal(None, 1) == [{}]


def test_a_metric_is_read_while_it_is_written(tmp_path):
    path = tmp_path / "metrics.csv"
    assert read_metric(path, "val/miou") == []
    path.write_text("step,train/loss,val/miou\n1,2.5,\n2,2.4,0.25\n3,2.")
    assert read_metric(path, "val/miou") == [0.25]
    assert read_metric(path, "val/macc") == []


def test_a_trial_dies_when_its_sweep_is_killed(tmp_path):
    """The trial is started as `Job` starts it, by a process that is then killed."""
    (tmp_path / "waiting.py").write_text(
        "import sys; from pathlib import Path; from segbench.commands.sweep.job import Job; import time\n"
        "job = Job(['fit'], Path('run'), Path('log'), {'PYTHONPATH': sys.argv[1]})\n"
        "print(job._process.pid, flush=True); time.sleep(60)\n"
    )
    # In the trial `child_process` is the real one, and what it runs a stand-in that takes a minute.
    stand_in = tmp_path / "stand_in" / "segbench"
    real = Path(segbench.__file__).parent
    for file in ("commands/sweep/child_process.py", "utils/posix.py"):
        copy = stand_in / file
        copy.parent.mkdir(parents=True)
        copy.write_text((real / file).read_text())
        for folder in copy.relative_to(stand_in).parents:
            (stand_in / folder / "__init__.py").touch()
    (stand_in / "__main__.py").write_text(
        "from pathlib import Path; Path('began').touch(); import time; time.sleep(60)\n"
    )
    root = str(real.parent)
    sweep = subprocess.Popen(
        [sys.executable, str(tmp_path / "waiting.py"), str(stand_in.parent)],
        stdout=subprocess.PIPE,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": root},
    )
    trial = int(sweep.stdout.readline())
    while not (tmp_path / "began").exists():
        assert is_alive(trial), (tmp_path / "log").read_text()
        time.sleep(0.01)
    sweep.send_signal(signal.SIGKILL)
    sweep.wait()
    sweep.stdout.close()
    end = time.monotonic() + 30
    while is_alive(trial) and time.monotonic() < end:
        time.sleep(0.05)
    assert not is_alive(trial)


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False

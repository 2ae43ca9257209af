import subprocess

import torch

from segbench.commands.bench import environment as circumstances
from segbench.commands.bench.section import Clock


def test_circumstances_say_what_figures_depend_on(monkeypatch, tmp_path):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "123")
    for index, (kind, level, size) in enumerate(
        [("Data", 1, "32K"), ("Instruction", 1, "64K"), ("Unified", 2, "1M")]
    ):
        (tmp_path / f"index{index}").mkdir()
        for name, value in (("type", kind), ("level", level), ("size", size)):
            (tmp_path / f"index{index}" / name).write_text(f"{value}\n")
    monkeypatch.setattr(circumstances, "CACHES", tmp_path)
    found = circumstances.circumstances(Clock(torch.device("cpu"), 7, 2), busy=3)
    assert found["device"] == "CPU"
    assert found["caches"] == {"L1": "32K", "L2": "1M"}
    assert found["threads"] == torch.get_num_threads()
    assert found["versions"]["torch"] == torch.__version__
    assert found["environment"]["MALLOC_TRIM_THRESHOLD_"] == "123"
    assert found["busy processes beside"] == 3
    assert found["rounds"].startswith("7 after 2 of warm-up")


def test_busy_processes_run_until_the_end(monkeypatch):
    started = []

    class Recorded(subprocess.Popen):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            started.append(self)

    monkeypatch.setattr(circumstances.subprocess, "Popen", Recorded)
    with circumstances.oversubscribed(2):
        assert [process.poll() for process in started] == [None, None]
    assert all(process.poll() is not None for process in started)
    with circumstances.oversubscribed(0):
        assert len(started) == 2

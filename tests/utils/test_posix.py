"""The package imports without POSIX: one module uses the features that only POSIX has."""

import ast
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from segbench.utils.posix import STOP_SIGNALS, TEMPFAIL, signals_blocked

PACKAGE = Path(__file__).parents[2] / "segbench"
MODULES = {"resource", "fcntl", "pwd", "grp", "termios", "pty", "tty", "syslog", "posix"}
NAMES = {
    "signal": {"SIGUSR1", "SIGUSR2", "SIGKILL", "SIGALRM", "SIGHUP", "setitimer", "alarm", "pthread_sigmask"},
    "os": {
        "EX_TEMPFAIL",
        "O_NOFOLLOW",
        "O_NONBLOCK",
        "fork",
        "getpgrp",
        "getuid",
        "killpg",
        "register_at_fork",
    },
}
# Guarded by `hasattr(os, "geteuid")`.
GUARDED = {"private.py", "posix.py"}


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_only_one_module_uses_posix_features(file):
    if file.name in GUARDED:
        return
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert not MODULES & {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.module not in MODULES
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert node.attr not in NAMES.get(node.value.id, set())


WITHOUT = """
import importlib, os, pkgutil, signal, sys
import albumentations, cv2, filelock, lightning.pytorch.cli, optuna, tifffile, timm, torch, torchmetrics
for name in {modules!r}:
    sys.modules[name] = None
for module, names in ((signal, {signals!r}), (os, {functions!r})):
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
import segbench
from segbench.utils.posix import STOP_SIGNALS, TEMPFAIL, peak_resident
for found in pkgutil.walk_packages(segbench.__path__, "segbench."):
    if "child_process" not in found.name and not found.name.endswith("__main__") and "triton" not in found.name:
        importlib.import_module(found.name)
assert [number.name for number in STOP_SIGNALS] == ["SIGTERM"]
assert TEMPFAIL == 75 and peak_resident() == 0
from segbench.cli import COMMANDS, TRAINER_VERBS
print(len(COMMANDS) + len(TRAINER_VERBS))
"""


@pytest.mark.slow
def test_every_module_imports_without_posix():
    code = WITHOUT.format(modules=MODULES - {"posix"}, signals=NAMES["signal"], functions=NAMES["os"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 14


def test_blocked_signals_wait_even_if_another_thread_receives_them():
    """An exception that a handler raises during a fork is printed and lost, and the command continues."""
    awake, end, done = threading.Event(), threading.Event(), threading.Event()

    def handler(number, frame):
        assert done.is_set()
        raise KeyboardInterrupt

    def receive():
        awake.set()
        end.wait()

    def start_workers():
        with signals_blocked([signal.SIGINT]):
            signal.pthread_kill(other.ident, signal.SIGINT)
            time.sleep(0.05)
            done.set()

    other = threading.Thread(target=receive)
    other.start()
    awake.wait()
    before = signal.signal(signal.SIGINT, handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            start_workers()
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)
        end.set()
        other.join()


@pytest.mark.parametrize("number", STOP_SIGNALS)
@pytest.mark.parametrize("moment", ["while a module is imported", "afterwards"])
def test_signal_before_training_exits_with_the_requeue_status(tmp_path, number, moment):
    send = f"import os; os.kill(os.getpid(), {int(number)})"
    (tmp_path / "sends.py").write_text(send)
    act = "import sends" if moment.startswith("while") else send
    (tmp_path / "run.py").write_text(
        "import sys, segbench.cli\n"
        f"def run(args):\n    {act}\n"
        "segbench.cli.main, sys.argv = run, ['segbench', 'fit']\n"
        "from segbench.__main__ import main\n"
        "main()\n"
    )
    ended = subprocess.run([sys.executable, "run.py"], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == TEMPFAIL
    assert ended.stderr == f"segbench: stopped by {number.name}\n"

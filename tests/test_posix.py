"""The package imports where POSIX is missing: what only POSIX has is asked for in one module."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "segbench"
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
# Behind `hasattr(os, "geteuid")`.
GUARDED = {"private.py", "posix.py"}


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_only_one_module_asks_for_what_windows_lacks(file):
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
from segbench.posix import STOP_SIGNALS, TEMPFAIL, peak_resident
for found in pkgutil.walk_packages(segbench.__path__, "segbench."):
    if "tethered" not in found.name and not found.name.endswith("__main__") and "triton" not in found.name:
        importlib.import_module(found.name)
assert [number.name for number in STOP_SIGNALS] == ["SIGTERM"]
assert TEMPFAIL == 75 and peak_resident() == 0
from segbench.verbs import COMMANDS, TRAINER_VERBS
print(len(COMMANDS) + len(TRAINER_VERBS))
"""


@pytest.mark.slow
def test_every_module_imports_without_posix():
    code = WITHOUT.format(modules=MODULES - {"posix"}, signals=NAMES["signal"], functions=NAMES["os"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 14

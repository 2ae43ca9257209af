"""The command line in this process, for tests of refused input."""

from collections.abc import Callable

import pytest

from segbench.__main__ import main


def refuse(capsys: pytest.CaptureFixture[str], *args: str, run: Callable[[list[str]], object] = main) -> str:
    """Runs a command that must fail with status 2 and one line on stderr, and returns that line."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run(list(args))
    assert stop.value.code == 2
    stderr = capsys.readouterr().err
    assert "Traceback" not in stderr
    (line,) = [line for line in stderr.splitlines() if line.startswith("segbench: error: ")]
    return line

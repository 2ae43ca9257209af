import subprocess
import sys

import pytest

from segbench.benchmarks import kernels
from segbench.commands.bench import bench


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(kernels, "CASES", (kernels.Case(5, 32, 1),))


@pytest.mark.usefixtures("tiny")
def test_prints_a_table_with_its_circumstances_and_writes_it_once(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "123")
    out = tmp_path / "new" / "bench.md"
    bench("kernels", repeats=1, out=out)
    printed = capsys.readouterr().out
    assert printed == out.read_text()
    for word in ("machine", "torch", "threads", "commit", "TRIM_THRESHOLD_=123", "| chunked |", "| plain |"):
        assert word in printed
    with pytest.raises(ValueError, match=r"bench\.md exists"):
        bench("kernels", repeats=1, out=out)
    assert out.read_text() == printed


@pytest.mark.parametrize(("arguments", "message"), [(("speed",), "'speed'"), (("kernels", 0), "repeats is 0")])
def test_mistakes_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        bench(*arguments)


def test_importing_the_command_does_not_import_torch():
    code = "import sys, segbench.commands.bench; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

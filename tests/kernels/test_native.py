import subprocess
import sys

import pytest
import torch

from segbench.kernels import native

compiled = pytest.mark.skipif(not native.available(), reason="no C compiler")


@compiled
def test_parts_run_once_each_in_order_and_in_a_forked_process_too():
    assert native.in_parallel(lambda part: part * part, 7) == [part**2 for part in range(7)]
    code = (
        "import os, torch; from segbench.kernels import native; torch.set_num_threads(2);"
        "native.in_parallel(str, 4); pid = os.fork();"
        "os._exit(native.in_parallel(str, 4) != list('0123')) if pid == 0 else None;"
        "raise SystemExit(os.waitpid(pid, 0)[1])"
    )
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False, timeout=60).returncode == 0


@compiled
def test_only_what_c_can_read_is_handed_over():
    assert native.pointer(None).value is None
    assert native.pointer(torch.ones(3)).value
    with pytest.raises(ValueError, match="contiguous"):
        native.pointer(torch.ones(3, 2).t())


@pytest.mark.parametrize(("compiler", "message"), [("no-such-compiler", None), ("false", "does not compile")])
def test_without_a_working_compiler_the_library_says_so_and_nothing_breaks(compiler, message, tmp_path):
    code = (
        "import shutil; from segbench.kernels import native\n"
        "find = shutil.which\n"
        f"shutil.which = lambda name: find(name) if name == 'false' == {compiler!r} else None\n"
        "assert not native.available()\n"
        "try: native.library()\n"
        "except ValueError as error: print(error)\n"
    )
    environment = {"CC": compiler, "SEGBENCH_CACHE": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120, check=True
    )
    assert (message or "need a C compiler") in done.stdout
    assert not list(tmp_path.rglob("*.so"))


@compiled
def test_a_compiler_may_be_named_by_several_words(tmp_path):
    code = "from segbench.kernels import native; native.library()"
    environment = {"CC": "env cc", "SEGBENCH_CACHE": str(tmp_path), "PATH": "/usr/bin:/bin"}
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=environment, timeout=120, check=True)
    assert len(list(tmp_path.rglob("*.so"))) == 1

import platform
import subprocess
import sys

import pytest
import torch

from segbench.kernels import native
from segbench.kernels.attention import c_kernel as native_attention

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


def compiler_with(flags, folder):
    """A compiler that does one thing otherwise, to be named by CC."""
    compiler = folder / "cc"
    compiler.write_text(f'#!/bin/sh\nexec cc "$@" {flags}\n')
    compiler.chmod(0o755)
    return str(compiler)


@compiled
def test_a_damaged_library_is_compiled_again(tmp_path, monkeypatch):
    monkeypatch.setenv("CC", compiler_with("-O0", tmp_path))
    monkeypatch.setenv("SEGBENCH_CACHE", str(tmp_path))
    native.library.__wrapped__()
    (library,) = tmp_path.rglob("*.so")
    content = library.read_bytes()
    library.unlink()  # what was loaded stays whole
    library.write_bytes(content[:-100])  # were more missing, it would crash Python where it is loaded
    native.library.__wrapped__()
    assert content in [path.read_bytes() for path in tmp_path.rglob("*.so")]
    monkeypatch.setattr(native, "_compile", None)  # not a third time
    native.library.__wrapped__()


@compiled
def test_where_nothing_can_be_written_another_place_is_asked_for(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SEGBENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(ValueError, match=r"cannot be written, .*; name another place by SEGBENCH_CACHE"):
        native.library.__wrapped__()


@compiled
@pytest.mark.skipif(platform.machine() != "x86_64", reason="flags of another processor")
def test_attention_in_c_is_not_taken_where_its_sums_fit_no_registers(tmp_path, monkeypatch):
    monkeypatch.setenv("CC", compiler_with("-O0 -march=x86-64 -w", tmp_path))
    monkeypatch.setenv("SEGBENCH_CACHE", str(tmp_path))
    library = native.library.__wrapped__()
    monkeypatch.setattr(native, "library", lambda: library)
    assert not native_attention.is_fast()


@compiled
def test_a_compiler_may_be_named_by_several_words(tmp_path, monkeypatch):
    monkeypatch.setenv("CC", f"env {compiler_with('-O0', tmp_path)}")
    monkeypatch.setenv("SEGBENCH_CACHE", str(tmp_path))
    native.library.__wrapped__()
    assert len(list(tmp_path.rglob("*.so"))) == 1


EVERYTHING = """
import numpy as np, torch
from segbench.kernels.attention import _mixed
from segbench.kernels.confusion import count_pairs
from segbench.kernels.upsample_argmax import upsample_argmax
from segbench.kernels.upsample_cross_entropy import upsample_cross_entropy
from segbench.postprocess.segment import segment

steep = torch.zeros(1, 3, 4, 8)
steep[:, 0, :, ::2] = steep[:, 1:, :, 1::2] = -44.5  # to base 2 a step of 128 from pixel to pixel, downwards
for logits, size in (
    *((steep, (4, width)) for width in (4, 3, 1)),
    *((scale * torch.randn(2, 21, 5, 7), (37, 61)) for scale in (1, 90, 3e4)),
    (torch.randn(1, 1, 1, 1), (3, 40)),
):
    target = torch.randint(logits.shape[1], (len(logits), *size))
    target[:, :, 0] = 255
    weights = {"weight": torch.rand(logits.shape[1]), "pixel_weight": torch.rand(target.shape)}
    for options in ({}, weights, {"label_smoothing": 0.1}, {"clip": 2.0}):
        leaf = logits.clone().requires_grad_()
        upsample_cross_entropy(leaf, target.short(), backend="native", **options).backward()
        assert leaf.grad.isfinite().all(), (logits.shape, size)
for logits in (torch.randn(1, 300, 5, 6), torch.randn(2, 19, 9, 4)):
    for size in ((63, 40), (3, 4), (9, 100)):
        labels = upsample_argmax(logits, size, backend="native")
count_pairs(labels, labels, 19, 255)
segment(np.random.rand(40, 50) < 0.4)
for length, width in ((1, 1), (130, 24), (97, 33)):
    query = torch.randn(2, 3, length, width, requires_grad=True)
    for dropped in (0, 6554):
        _mixed(query, query, query, 0.3, dropped, torch.tensor(2**62))[0].square().sum().backward()
"""


@compiled
@pytest.mark.slow  # compiles everything again, with the sanitiser
def test_c_does_nothing_that_the_language_leaves_open(tmp_path):
    compiler = compiler_with("-O0 -fsanitize=undefined -fno-sanitize-recover=undefined", tmp_path)
    probe = tmp_path / "probe.c"
    probe.write_text("int twice(int x) { return 2 * x; }\n")
    command = [compiler, "-shared", "-fPIC", str(probe), "-o", str(tmp_path / "probe.so")]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this compiler does not look for undefined behaviour")
    environment = {"CC": compiler, "SEGBENCH_CACHE": str(tmp_path), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-W", "ignore", "-c", EVERYTHING]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert not done.returncode, done.stderr
    assert "runtime error" not in done.stderr

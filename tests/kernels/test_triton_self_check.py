"""The Triton loss is compared with the chunked one at its first use, and gives way if it differs."""

import logging
from types import SimpleNamespace

import pytest
import torch

from segbench.kernels import upsample_cross_entropy as loss
from segbench.kernels.upsample_cross_entropy import chunked, self_check

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def fresh_cache(monkeypatch):
    monkeypatch.delenv("SEGBENCH_KERNELS", raising=False)
    check = self_check.triton_agrees
    check.cache_clear()
    yield
    check.cache_clear()


def use(monkeypatch, kernel):
    calls = []

    def counted(*args):
        calls.append(args)
        return kernel(*args)

    monkeypatch.setattr(self_check, "_triton_kernel", lambda: counted)
    return calls


def test_a_right_kernel_is_used_and_checked_once(monkeypatch, caplog):
    calls = use(monkeypatch, chunked.loss_and_gradient)
    assert self_check.triton_agrees(CPU)
    assert self_check.triton_agrees(CPU)
    assert len(calls) == 1
    assert caplog.records == []


def scaled(index, factor):
    def kernel(*args):
        results = list(chunked.loss_and_gradient(*args))
        results[index] = results[index] * factor
        return tuple(results)

    return kernel


def one_wrong_cell(*args):
    cost, total, gradient = chunked.loss_and_gradient(*args)
    gradient[0, 2, 3, 5] += 0.01 * gradient.abs().max()
    return cost, total, gradient


def fails(*args):
    raise RuntimeError("PassManager::run\nfailed")


@pytest.mark.parametrize(
    ("kernel", "reason"),
    [
        (scaled(0, 1.001), "its loss differ"),
        (scaled(1, 2), "its weight differ"),
        (scaled(2, float("nan")), "its gradient differ"),
        (one_wrong_cell, "its gradient differ"),
        (fails, "RuntimeError: PassManager::run failed"),
    ],
)
def test_a_kernel_that_fails_or_differs_steps_aside_with_one_warning(monkeypatch, caplog, kernel, reason):
    calls = use(monkeypatch, kernel)
    with caplog.at_level(logging.WARNING):
        assert not self_check.triton_agrees(CPU)
        assert not self_check.triton_agrees(CPU)
    assert len(calls) == 1
    (record,) = caplog.records
    assert reason in record.getMessage()
    assert "SEGBENCH_KERNELS=chunked" in record.getMessage()


@pytest.mark.parametrize(("agrees", "backend"), [(True, "triton"), (False, "chunked")])
def test_auto_takes_the_kernel_on_a_gpu_only_if_it_agrees(monkeypatch, agrees, backend):
    pytest.importorskip("triton")
    checked = []
    monkeypatch.setattr(self_check, "triton_agrees", lambda device: checked.append(device) or agrees)
    logits = SimpleNamespace(device=torch.device("cuda", 1), dtype=torch.float32)
    assert loss._choose("auto", logits) == backend
    assert checked == [logits.device]
    monkeypatch.setenv("SEGBENCH_KERNELS", "chunked")
    assert loss._choose("auto", logits) == "chunked"
    assert len(checked) == 1
    assert loss._choose("auto", SimpleNamespace(device=CPU, dtype=torch.float64)) == "chunked"

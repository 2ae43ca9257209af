"""Every section on tiny cases: that it measures, and that it would say if a kernel were wrong."""

from typing import Literal

import pytest
import torch
import torch.nn.functional as F

from segbench.commands.bench import argmax, confusion, kernels, loss, regions
from segbench.commands.bench import window_merging as merging
from segbench.commands.bench.section import Clock, Column

CLOCK = Clock(torch.device("cpu"), repeats=1)
LOSS = loss.Case(20, 64, 2)
ARGMAX = [argmax.Case(5, (4, 6), (64, 96), 0.3), argmax.Case(5, (4, 6), (64, 96), None)]
MERGING = merging.Case("tiny", 4, (64, 112), 64, 48)
CONFUSION = confusion.Case(5, (64, 80), True)


def measured(section):
    """Rows by variant, of what this machine has; every cell of them is filled."""
    rows = [row for case in section.cases.values() for row in case(CLOCK) if "reason" not in row]
    for row in rows:
        cells = {column.title: column.value(row) for column in section.columns if isinstance(column, Column)}
        assert None not in cells.values(), cells
    return {row["variant"]: row for row in rows}


def test_the_loss_is_compared_backend_by_backend():
    rows = measured(loss.section([LOSS]))
    assert next(iter(rows)) == "plain"
    assert "chunked" in rows
    assert all(0 < row["gradient_error"] < 1e-5 for row in rows.values())


def test_a_backend_that_cannot_work_here_says_why(monkeypatch):
    def kernel(logits, target, *, backend: Literal["auto", "plain", "rocket"] = "auto"):
        if backend == "rocket":
            raise ValueError("backend: rocket needs fuel; choose plain")
        return F.cross_entropy(
            F.interpolate(logits, (64, 64), mode="bilinear"), target.long(), ignore_index=255
        )

    monkeypatch.setattr(loss, "upsample_cross_entropy", kernel)
    plain, rocket = loss.measure(LOSS, CLOCK)
    assert plain["median_s"] > 0
    assert rocket["reason"] == "backend: rocket needs fuel; choose plain"


def test_the_exact_gradient_is_that_of_the_whole_batch():
    logits = torch.randn(3, 4, 2, 2, dtype=torch.float64, requires_grad=True)
    target = torch.randint(4, (3, 8, 8), dtype=torch.uint8)
    target[0, :5] = 255  # images weigh what their labelled pixels weigh
    full = F.interpolate(logits, (8, 8), mode="bilinear")
    F.cross_entropy(full, target.long(), ignore_index=255).backward()
    torch.testing.assert_close(loss._exact(logits.detach(), target), logits.grad)


def test_labels_agree_with_float64():
    rows = measured(argmax.section(ARGMAX))
    assert {"interpolate, argmax", "chunked"} <= rows.keys()
    assert all(row["agreement"] == 1 for row in rows.values())


def test_windows_are_merged_to_the_same_labels():
    rows = measured(merging.section([MERGING]))
    assert list(rows) == ["full-size maps", "segbench"]
    assert rows["segbench"]["agreement"] == 1
    assert "2 windows of 64²" in str(MERGING)


def test_published_windows_are_as_many_as_the_figures_say():
    assert [len(case.corners()) for case in merging.CASES] == [8, 2]


def test_counts_are_those_of_torchmetrics():
    rows = measured(confusion.section([CONFUSION]))
    assert list(rows) == ["torchmetrics", "segbench"]
    assert rows["segbench"]["equal"] is True


def test_wrong_kernels_are_found_out(monkeypatch):
    def zeros(logits, size, *, backend: Literal["auto", "plain", "chunked"] = "auto"):
        return torch.zeros(1, *size, dtype=torch.uint8)

    monkeypatch.setattr(argmax, "upsample_argmax", zeros)
    assert argmax.measure(ARGMAX[1], CLOCK)[1]["agreement"] < 1
    monkeypatch.setattr(merging.sliding_window, "segment", lambda *_, **__: torch.zeros(1, 64, 112))
    assert merging.measure(MERGING, CLOCK)[1]["agreement"] < 1
    monkeypatch.setattr(confusion, "confusion_matrix", lambda *_: torch.zeros(5, 5, dtype=torch.int64))
    assert confusion.measure(CONFUSION, CLOCK)[1]["equal"] is False


@pytest.mark.parametrize("step", ["clean-up", "SEGMENT", "DUST_FILL", "whole"])
def test_regions_are_the_same_with_and_without_a_compiler(step, monkeypatch):
    rows = measured(regions.section([regions.Case(step, 4, (48, 32), 0.2)]))
    assert next(iter(rows)) == "plain"
    assert all(row["same"] for row in rows.values())
    assert rows["plain"]["ns_per_pixel"] == pytest.approx(1e9 * rows["plain"]["median_s"] / (48 * 32))
    if step == "DUST_FILL":
        monkeypatch.setattr(regions, "MOST_PLAIN", 48 * 32 - 1)
        plain, *_ = regions.measure(regions.Case(step, 4, (48, 32), 0.2), CLOCK)
        assert plain["reason"] == "takes seconds on so many pixels"


def test_every_kernel_has_a_section_of_its_own():
    names = [section.name for section in kernels.sections()]
    assert {"loss", "argmax", "merging", "confusion", "regions"} <= set(names)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("case", argmax.CASES)
def test_a_case_says_what_it_is(case):
    assert f"K={case.num_classes} " in str(case)

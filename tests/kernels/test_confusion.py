"""The counts in C against those of NumPy; what they are for stands in tests/metrics."""

import pytest
import torch
from reference import slow_scores

from segbench.kernels import confusion, native
from segbench.metrics.segmentation import confusion_matrix

pytestmark = pytest.mark.skipif(not native.available(), reason="no C compiler")


def maps(num_classes, pixels, run, ignore_index=255):
    """Two maps of runs of equal pixels."""
    generator = torch.Generator().manual_seed(pixels)
    both = torch.randint(num_classes, (2, pixels // run + 1), generator=generator, dtype=torch.uint8)
    both[1, ::5] = ignore_index
    return both.repeat_interleave(run, 1)[:, :pixels]


@pytest.mark.parametrize("run", [1, 3, 40])
@pytest.mark.parametrize("pixels", [1, 7, 8, 1003, 40_000])
@pytest.mark.parametrize("num_classes", [1, 19, 256])
def test_counts_like_numpy(num_classes, pixels, run):
    labels, targets = maps(num_classes, pixels, run)
    assert confusion.can_count(labels, targets, num_classes)
    expected = slow_scores.confusion(labels, targets, num_classes, 255)
    assert (confusion.count_pairs(labels, targets, num_classes, 255).counts.numpy() == expected).all()


def test_threads_leave_no_trace(monkeypatch):
    labels, targets = maps(19, 40_001, 3)
    expected = confusion.count_pairs(labels, targets, 19, 255).counts
    monkeypatch.setattr(confusion, "PART_PIXELS", 1000)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    assert torch.equal(confusion.count_pairs(labels, targets, 19, 255).counts, expected)


@pytest.mark.parametrize("backend", ["plain", "chunked", "native", "auto"])
def test_the_environment_chooses_and_nothing_changes(backend, monkeypatch):
    labels, targets = maps(19, 5000, 3)
    expected = confusion_matrix(labels.long(), targets.long(), 19)
    monkeypatch.setenv("SEGBENCH_KERNELS", backend)
    assert confusion.can_count(labels, targets, 19) == (backend in ("native", "auto"))
    assert torch.equal(confusion_matrix(labels, targets, 19), expected)


def test_strided_maps():
    labels, targets = maps(19, 6000, 3).view(2, 60, 100)
    found = confusion_matrix(labels[:, ::2], targets[:, ::2], 19)
    expected = slow_scores.confusion(labels[:, ::2], targets[:, ::2], 19, 255)
    assert (found.numpy() == expected).all()


@pytest.mark.parametrize("place", [0, 20_000, 39_999])
def test_names_what_is_no_class_wherever_it_lies(place):
    labels, targets = maps(19, 40_000, 3)
    labels[place] = 19
    with pytest.raises(ValueError, match="labels hold 19, but 19 classes are numbered 0 to 18"):
        confusion_matrix(labels, targets, 19)
    labels[place], targets[place] = 0, 200
    with pytest.raises(ValueError, match="targets hold 200, neither one of 19 classes nor ignore_index 255"):
        confusion_matrix(labels, targets, 19)


def test_an_ignored_class_is_still_a_class_of_the_prediction():
    labels = torch.tensor([3, 3, 0], dtype=torch.uint8)
    targets = torch.tensor([3, 1, 0], dtype=torch.uint8)
    counts = confusion_matrix(labels, targets, 4, ignore_index=3)
    assert counts.sum() == 2
    assert counts[1, 3] == counts[0, 0] == 1

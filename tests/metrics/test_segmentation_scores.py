import math

import numpy as np
import pytest
import torch
from reference import slow_scores

from segbench.metrics.segmentation import SegmentationScores, confusion_matrix

TYPES = [torch.uint8, torch.int32, torch.int64]


def random_maps(num_classes, *shape, ignore_index=255, dtype=torch.int64):
    generator = torch.Generator().manual_seed(num_classes)
    labels = torch.randint(num_classes, shape, generator=generator)
    targets = torch.randint(num_classes, shape, generator=generator)
    targets[torch.rand(shape, generator=generator) < 0.2] = ignore_index
    return labels.to(dtype), targets.to(dtype)


@pytest.mark.parametrize("labels_type", TYPES)
@pytest.mark.parametrize("targets_type", TYPES)
@pytest.mark.parametrize("num_classes", [1, 2, 19, 150, 255])
def test_confusion_matrix_agrees_with_counting(num_classes, targets_type, labels_type):
    labels, targets = random_maps(num_classes, 2, 17, 23)
    found = confusion_matrix(labels.to(labels_type), targets.to(targets_type), num_classes)
    assert found.dtype == torch.int64
    np.testing.assert_array_equal(found, slow_scores.confusion(labels, targets, num_classes, 255))


@pytest.mark.parametrize("ignore_index", [-1, 0, 3, 7, 1000])
def test_any_ignore_index(ignore_index):
    labels, targets = random_maps(7, 40, 30, ignore_index=ignore_index)
    expected = slow_scores.confusion(labels, targets, 7, ignore_index)
    np.testing.assert_array_equal(confusion_matrix(labels, targets, 7, ignore_index), expected)


def test_255_is_not_minus_one():
    target = torch.tensor([[255, 0]], dtype=torch.uint8)
    with pytest.raises(ValueError, match="targets hold 255"):
        confusion_matrix(torch.zeros_like(target), target, 3, ignore_index=-1)


def test_maps_are_left_as_they_were():
    labels, targets = random_maps(5, 8, 8, dtype=torch.int32)
    before = labels.clone(), targets.clone()
    confusion_matrix(labels, targets, 5)
    assert torch.equal(labels, before[0])
    assert torch.equal(targets, before[1])


@pytest.mark.parametrize("num_classes", [2, 19, 150])
def test_scores_agree_with_the_definition_over_the_whole_split(num_classes):
    metric = SegmentationScores(num_classes)
    batches = [random_maps(num_classes, b, h, w) for b, h, w in ((2, 20, 30), (1, 11, 13), (3, 8, 8))]
    for labels, targets in batches:
        labels[labels == 1] = 0  # class 1 is never predicted
        metric.update(labels.byte(), targets)
    every_label = np.concatenate([labels.ravel() for labels, _ in batches])
    every_target = np.concatenate([targets.ravel() for _, targets in batches])
    expected = slow_scores.scores(every_label, every_target, num_classes, 255)
    found = metric.compute()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == torch.float64
        np.testing.assert_allclose(found[name], value, rtol=1e-12)
    np.testing.assert_array_equal(
        metric.confusion, slow_scores.confusion(every_label, every_target, num_classes, 255)
    )


def test_which_classes_count_in_the_mean():
    # IoU 0.8 and 0.6; class 2 is predicted but never true, class 3 occurs nowhere.
    truth_and_prediction = [(0, 0, 80), (0, 2, 20), (1, 1, 60), (1, 2, 40)]
    truth = torch.cat([torch.full((n,), t) for t, _, n in truth_and_prediction])
    prediction = torch.cat([torch.full((n,), p) for _, p, n in truth_and_prediction])
    metric = SegmentationScores(4)
    metric.update(prediction.view(1, 10, 20), truth.view(1, 10, 20))
    found = metric.compute()
    assert found["iou"][:3].tolist() == pytest.approx([0.8, 0.6, 0.0])
    assert math.isnan(found["iou"][3])
    assert found["miou"].item() == pytest.approx(1.4 / 3)  # 0.467: neither 0.700 nor 0.350
    assert found["acc"][:2].tolist() == pytest.approx([0.8, 0.6])
    assert found["acc"][2:].isnan().all()
    assert found["macc"].item() == pytest.approx(0.7)
    assert found["aacc"].item() == pytest.approx(0.7)


def test_predictions_on_ignored_pixels_are_no_mistakes():
    metric = SegmentationScores(3)
    metric.update(torch.tensor([[[0, 1, 2, 2]]]), torch.tensor([[[0, 1, 255, 255]]]))
    found = metric.compute()
    assert found["miou"] == 1
    assert math.isnan(found["iou"][2])


def test_nothing_labelled_gives_nan():
    metric = SegmentationScores(3)
    metric.update(torch.zeros(1, 4, 4, dtype=torch.uint8), torch.full((1, 4, 4), 255, dtype=torch.uint8))
    metric.update(torch.zeros(0, 4, 4, dtype=torch.uint8), torch.zeros(0, 4, 4, dtype=torch.uint8))
    assert all(value.isnan().all() for value in metric.compute().values())


def test_counts_past_the_precision_of_float32():
    metric = SegmentationScores(2)
    metric.confusion += torch.tensor([[2**40, 1], [0, 0]])
    metric.update(torch.zeros(1, 1, 1, dtype=torch.uint8), torch.zeros(1, 1, 1, dtype=torch.uint8))
    assert metric.confusion[0, 0] == 2**40 + 1
    assert metric.half().confusion.dtype == torch.int64


@pytest.mark.parametrize(
    ("labels", "targets", "message"),
    [
        ([0, 5], [0, 1], "labels hold 5, but 3 classes are numbered 0 to 2"),
        ([0, -1], [0, 1], "labels hold -1"),
        ([0, 1], [0, 3], "targets hold 3, neither one of 3 classes nor ignore_index 255"),
        ([0, 1], [0, -1], "targets hold -1"),
        ([0, 7], [0, 255], "labels hold 7"),  # even where it would not be counted
        ([0.0, 1.0], [0, 1], "labels must be whole numbers"),
        ([0, 1, 2], [0, 1], "differ in shape"),
    ],
)
def test_names_the_value_that_is_no_class(labels, targets, message):
    with pytest.raises(ValueError, match=message):
        confusion_matrix(torch.tensor(labels), torch.tensor(targets), 3)


def test_a_refused_batch_is_not_counted():
    metric = SegmentationScores(3)
    with pytest.raises(ValueError, match="targets hold 4"):
        metric.update(torch.zeros(1, 1, 2, dtype=torch.uint8), torch.tensor([[[0, 4]]]))
    assert metric.confusion.sum() == 0

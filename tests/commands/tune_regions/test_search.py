import numpy as np
import pytest
import torch

from segbench.commands.tune_regions.search import GRID, Counts, draw_trials, miou, two_fold_gain
from segbench.metrics.segmentation import confusion_matrix, scores
from segbench.postprocess.regions import Regions

K = 4


def maps(count, trials, seed=0, spoilt=()):
    """Random truths and label maps, as counts; `spoilt[t]` is the share of wrong pixels of column `t`."""
    rng = np.random.default_rng(seed)
    true, predicted, hit, pairs = [], [], [], []
    for _ in range(count):
        target = rng.integers(0, K, (12, 10))
        target[rng.random(target.shape) < 0.1] = 255
        matrices = []
        for trial in range(trials + 1):
            share = spoilt[trial] if spoilt else rng.random()
            label = np.where(rng.random(target.shape) < share, rng.integers(0, K, target.shape), target)
            label[label == 255] = 0
            matrices.append(confusion_matrix(torch.from_numpy(label), torch.from_numpy(target), K).numpy())
        pairs.append(matrices)
        true.append(matrices[0].sum(1))
        predicted.append([matrix.sum(0) for matrix in matrices])
        hit.append([matrix.diagonal() for matrix in matrices])
    return Counts(np.array(true), np.array(predicted), np.array(hit)), np.array(pairs)


def test_scores_are_those_of_one_confusion_matrix():
    counts, matrices = maps(5, 3)
    for column, value in enumerate(miou(counts)):
        assert value == pytest.approx(float(scores(torch.from_numpy(matrices[:, column].sum(0)))["miou"]))
    weights = np.array([[2, 0, 1, 0, 3], [0, 0, 0, 1, 0]])
    for row, values in zip(weights, miou(counts, weights), strict=True):
        total = np.tensordot(row, matrices, 1)
        for column, value in enumerate(values):
            assert value == pytest.approx(float(scores(torch.from_numpy(total[column]))["miou"]))


def test_a_class_that_is_nowhere_is_left_out():
    one = np.array([[[8, 2, 0], [0, 10, 0], [0, 0, 0]]])
    counts = Counts(one.sum(2), one.sum(1)[:, None], np.diagonal(one, axis1=1, axis2=2)[:, None])
    assert miou(counts)[0] == pytest.approx((8 / 10 + 10 / 12) / 2)


def test_trials_begin_with_the_published_one_and_differ():
    trials = draw_trials(40, 3)
    assert trials[0] == {name: getattr(Regions(), name) for name in GRID}
    assert len({tuple(one.values()) for one in trials}) == 40
    assert trials == draw_trials(40, 3) != draw_trials(40, 4)
    for one in trials:
        Regions(**one)
    with pytest.raises(ValueError, match="trials is 0; give 1 to 27000"):
        draw_trials(0, 0)


def test_the_gain_is_of_images_that_had_no_say():
    """Noise alone: the best of many trials looks better than raw, and two folds must not believe it."""
    noise = (0.5,) * 21
    believed, honest = [], []
    for seed in range(12):
        counts, _ = maps(8, 20, seed, noise)
        values = miou(counts)
        believed.append(values[1:].max() - values[0])
        gain = two_fold_gain(counts, seed)
        honest.append(gain.regions - gain.raw)
        assert gain.raw == pytest.approx(values[0])
    assert np.mean(believed) > 0.02
    assert abs(np.mean(honest)) < 0.01


def test_a_real_gain_is_found_with_its_interval():
    counts, _ = maps(30, 3, 0, (0.6, 0.5, 0.3, 0.7))
    gain = two_fold_gain(counts, 0)
    assert gain.chosen == (1, 1)
    difference = gain.regions - gain.raw
    assert 0 < gain.low < difference < gain.high < 1
    assert gain.regions == pytest.approx(miou(counts)[2])
    worse, _ = maps(30, 1, 0, (0.3, 0.6))
    assert two_fold_gain(worse, 0).high < 0


def test_the_interval_is_that_of_resampled_pairs():
    counts, matrices = maps(12, 1, 5, (0.5, 0.45))
    gain = two_fold_gain(counts, 1)
    rng = np.random.default_rng(7)
    differences = []
    for _ in range(600):
        total = matrices[rng.integers(0, 12, 12)].sum(0)
        raw, after = (float(scores(torch.from_numpy(one))["miou"]) for one in total)
        differences.append(after - raw)
    assert [gain.low, gain.high] == pytest.approx(list(np.quantile(differences, [0.025, 0.975])), abs=0.01)


def test_one_image_cannot_be_halved():
    with pytest.raises(ValueError, match="1 image cannot be halved"):
        two_fold_gain(maps(1, 1)[0], 0)

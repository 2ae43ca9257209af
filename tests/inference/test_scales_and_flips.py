"""Scales and flips against Segmenter's procedure done at full size, and what is kept of the probabilities."""

import math

import pytest
import torch
from inference.test_sliding_window import K, model, peak, photograph
from reference import slow_windows

from segbench.inference import sliding_window
from segbench.inference.confidence import confidence
from segbench.inference.sliding_window import Windows
from segbench.inference.test_time_augmentation import Views, predict_views, probability_tiles, segment

SCALES = [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]


def probabilities(image, forward, views):
    results = []
    for one in image.split(1):
        result = torch.full((K, *image.shape[2:]), math.nan)
        for tile in probability_tiles(predict_views(one, forward, views), views.windows.tile_bytes):
            result[:, tile.rows, tile.columns] = tile.values.transpose(0, 1)
        results.append(result)
    return torch.stack(results)


def sharp(**options):
    """A model whose probabilities differ from pixel to pixel, so that means of logits would show."""
    forward = model(**options)
    return lambda windows: forward(windows)._replace(logits=3 * forward(windows).logits)


@pytest.mark.parametrize(
    ("size", "scales", "flip", "options"),
    [
        ((50, 67), SCALES, True, {"window": 48, "stride": 32}),
        (
            (50, 67),
            [0.5, 1.75],
            True,
            {"window": 40, "stride": 24, "resize": (120, 50)},
        ),  # windows padded to 48
        ((45, 52), [0.5, 1.5], True, {}),
        ((50, 64), [1.0], True, {}),
        ((64, 50), [0.75], False, {"window": 48, "stride": 17}),
        ((50, 64), [1.0, 1.0], False, {}),
    ],
    ids=str,
)
def test_agrees_with_segmenter_done_at_full_size(size, scales, flip, options):
    image, forward = photograph(*size, batch=2), sharp()
    expected = slow_windows.averaged_probabilities(image, forward, scales, flip, **options)
    views = Views(scales, flip, Windows(**options, tile_bytes=20_000))
    found = probabilities(image, forward, views)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-4)
    labels = segment(image, forward, views)
    first, second = expected.topk(2, dim=1).values.unbind(1)
    clear = first - second > 2e-4
    assert clear.float().mean() > 0.99
    assert len(labels.unique()) > 2
    assert torch.equal(labels.long()[clear], expected.argmax(1)[clear])


def test_a_mirror_image_gives_mirrored_labels():
    image = photograph(48, 80)  # a whole number of patches: the padding would not be mirrored
    views = Views([1.0, 2.0], flip=True)
    mirrored = segment(image.flip(3), model(), views).flip(2)
    assert (mirrored == segment(image, model(), views)).float().mean() > 0.999
    alone = segment(image.flip(3), model()).flip(2)
    assert (alone == segment(image, model())).float().mean() < 0.99  # the model itself is not symmetrical


def test_one_view_alone_is_the_sliding_window():
    image, windows = photograph(61, 83, batch=2), Windows(48, 32)
    expected = sliding_window.segment(image, model(), windows)
    assert torch.equal(segment(image, model(), Views([1.0], False, windows)), expected)


def test_no_view_is_held_at_full_size():
    image = photograph(192, 256)
    forward = model(num_classes=40)
    full_size = 40 * 192 * 256 * 4  # of one view
    views = Views([0.5, 1.0], True, Windows(64, 64, tile_bytes=2**19))
    assert peak(lambda: segment(image, forward, views)) < full_size / 2


@pytest.mark.parametrize("flip", [False, True])
def test_certainty_is_that_of_the_averaged_probabilities(flip):
    image, options = photograph(61, 83, batch=2), {"window": 48, "stride": 32}
    expected = slow_windows.averaged_probabilities(image, sharp(), [1.0], flip, **options)
    views = Views(flip=flip, windows=Windows(**options))
    found = confidence(image, sharp(), views, top=3)
    best = expected.topk(3, dim=1)
    torch.testing.assert_close(found.probabilities.double(), best.values, rtol=0, atol=1e-4)
    assert (found.classes.long() == best.indices).float().mean() > 0.999
    entropy = -(expected * expected.log()).sum(1) / math.log(K)
    torch.testing.assert_close(found.entropy.double(), entropy, rtol=0, atol=1e-4)
    assert torch.equal(found.classes[:, 0], segment(image, sharp(), views))


def test_entropy_runs_from_0_to_1():
    def forward(windows):
        logits = torch.zeros(len(windows), K, 1, 2)
        logits[:, 4, :, 1] = 1000
        return sliding_window.WindowPrediction(logits, tuple(windows.shape[2:]))

    found = confidence(photograph(8, 32), forward)
    assert found.entropy[0, :, :8] == pytest.approx(1.0, abs=1e-6)
    assert found.entropy[0, :, 24:].abs().max() == 0
    assert (found.classes[0, 0, :, 24:] == 4).all()


@pytest.mark.parametrize("scales", [[], [0.0], [1.0, -1.0], [math.nan], [math.inf]])
def test_refuses_scales_that_no_image_has(scales):
    with pytest.raises(ValueError, match="scales must be one or more positive factors"):
        segment(photograph(20, 20), model(), Views(scales))


def test_refuses_more_classes_than_there_are():
    with pytest.raises(ValueError, match=f"top is 8; choose 1 to {K}"):
        confidence(photograph(20, 20), model(), top=8)

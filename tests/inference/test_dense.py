"""Full-size probabilities against the same procedure with every step written out."""

import pytest
import torch
from inference.test_sliding_window import K, model, photograph
from reference import slow_windows

from segbench.inference.pixel_probabilities import label_edges, predict_proba
from segbench.inference.sliding_window import WindowPrediction, Windows
from segbench.inference.test_time_augmentation import Views

OPTIONS = [
    {},
    {"window": 48, "stride": 32},
    {"window": 40, "stride": 24, "resize": (120, 50)},
]


def with_boundary(forward):
    """Adds boundary logits that differ from pixel to pixel."""

    def predict(windows):
        logits, size = forward(windows)
        return WindowPrediction(torch.cat([3 * logits, logits[:, :1] - 2 * logits[:, 1:2]], 1), size)

    return predict


def channels(forward, pick):
    return lambda windows: (pick(forward(windows).logits), forward(windows).size)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(("scales", "flip"), [([1.0], False), ([0.5, 1.5], True)])
def test_classes_and_boundary_see_the_same_windows_scales_and_flips(options, scales, flip):
    forward, image = with_boundary(model()), photograph(50, 67, 2)
    views = Views(scales, flip, Windows(**options, tile_bytes=4000))
    found = list(predict_proba(image, forward, K, views))
    assert len(found) == 2
    classes = slow_windows.averaged_probabilities(
        image, channels(forward, lambda x: x[:, :K]), scales, flip, **options
    )
    # A boundary is a class beside one of logit 0.
    either = slow_windows.averaged_probabilities(
        image, channels(forward, lambda x: torch.cat([0 * x[:, K:], x[:, K:]], 1)), scales, flip, **options
    )
    for index, (probabilities, boundary) in enumerate(found):
        assert probabilities.dtype == boundary.dtype == torch.float32
        # A pixel of a resized image may be rounded the other way, which is worth 2e-4 here.
        torch.testing.assert_close(probabilities.double(), classes[index], rtol=0, atol=5e-4)
        torch.testing.assert_close(boundary.double(), either[index, 1], rtol=0, atol=5e-4)
    assert found[0].boundary.std() > 0.01


def test_one_view_is_the_sigmoid():
    forward, image = with_boundary(model()), photograph(48, 64)
    (found,) = predict_proba(image, forward, K)
    logits = slow_windows.merged_logits(image, forward)[0]
    torch.testing.assert_close(found.boundary.double(), logits[K].sigmoid(), rtol=0, atol=1e-4)
    torch.testing.assert_close(found.probabilities.double(), logits[:K].softmax(0), rtol=0, atol=1e-4)


def test_without_a_head_boundaries_are_the_edges_of_the_argmax_classes():
    (found,) = predict_proba(photograph(50, 67), model(), K)
    labels = found.probabilities.argmax(0)
    expected = torch.zeros(50, 67)
    for y in range(1, 49):
        for x in range(1, 66):
            around = [labels[y + 1, x], labels[y - 1, x], labels[y, x + 1], labels[y, x - 1]]
            expected[y, x] = any(one != labels[y, x] for one in around)
    assert torch.equal(found.boundary, expected)
    assert 0 < expected.mean() < 1


def test_edges_are_two_cells_thick():
    labels = torch.zeros(5, 6, dtype=torch.uint8)
    labels[:, 3:] = 255
    assert torch.equal(label_edges(labels)[2], torch.tensor([0.0, 0, 1, 1, 0, 0]))


def test_other_channels_are_refused():
    with pytest.raises(
        ValueError, match=rf"forward returned {K} channels; give {K - 2}, or one more of boundary"
    ):
        list(predict_proba(photograph(48, 64), model(), K - 2))

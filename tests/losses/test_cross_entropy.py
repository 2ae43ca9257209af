"""Options of the loss reach the kernel."""

import pytest
import torch
import torch.nn.functional as F

from segbench.losses.clipped_cross_entropy import ClippedCrossEntropy
from segbench.losses.cross_entropy import CrossEntropy
from segbench.types import Prediction


def test_equals_torch_with_weights_and_smoothing():
    logits, label = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 16, 20))
    label[0, :4] = 255
    loss = CrossEntropy(3, 255, class_weights=[1.0, 2.0, 0.5], label_smoothing=0.1)
    upsampled = F.interpolate(logits, (16, 20), mode="bilinear")
    expected = F.cross_entropy(
        upsampled, label, torch.tensor([1.0, 2.0, 0.5]), ignore_index=255, label_smoothing=0.1
    )
    torch.testing.assert_close(loss(Prediction(logits), label), expected)


def test_class_weights_are_configuration_and_not_in_checkpoints():
    assert list(CrossEntropy(2, 255, class_weights=[1.0, 2.0]).state_dict()) == []


def test_good_predictions_cost_less():
    label = torch.tensor([[[0, 1], [1, 0]]])
    good = F.one_hot(label, 2).movedim(-1, 1).float() * 5
    loss = CrossEntropy(2, 255)
    assert loss(Prediction(good), label) < loss(Prediction(torch.zeros(1, 2, 2, 2)), label)
    assert loss(Prediction(torch.zeros(1, 2, 2, 2)), label) < loss(Prediction(-good), label)


def test_mistakes():
    with pytest.raises(ValueError, match="class_weights: 2 given for 3 classes"):
        CrossEntropy(3, 255, class_weights=[1.0, 1.0])
    with pytest.raises(ValueError, match="label_smoothing"):
        CrossEntropy(3, 255, label_smoothing=1.5)


@pytest.mark.parametrize("loss", [CrossEntropy, ClippedCrossEntropy])
@pytest.mark.parametrize("wrong", [-5.0, float("nan"), float("inf")])
def test_weights_that_reward_mistakes_or_are_no_numbers_are_refused(loss, wrong):
    with pytest.raises(ValueError, match=r"class_weights: \S+ is negative or no number"):
        loss(3, 255, class_weights=[1.0, 0.0, wrong])

"""The colour loss against NumPy, pixel by pixel."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from segbench.losses.color import MeanAbsoluteColor
from segbench.types import Prediction

PALETTE = torch.tensor([[0, 0, 0], [255, 51, 0], [10, 20, 30], [255, 255, 255]]) / 255


def make(ignore_index=255):
    loss = MeanAbsoluteColor(4, ignore_index)
    loss.palette = PALETTE
    return loss


def predicted(colors):
    return Prediction(torch.zeros(len(colors), 4, *colors.shape[-2:]), colors=colors)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
@pytest.mark.parametrize("size", [(6, 10), (3, 5)])  # of the colours; labels are 6×10
def test_equals_numpy(dtype, size):
    colors = torch.rand(2, 3, *size)
    label = torch.randint(0, 4, (2, 6, 10)).to(dtype)
    label[:, 1:3] = 255
    painted = F.interpolate(colors, (6, 10), mode="bilinear").numpy()
    errors = [
        abs(painted[b, channel, y, x] - PALETTE[label[b, y, x].long(), channel].item())
        for b, y, x in np.ndindex(2, 6, 10)
        for channel in range(3)
        if label[b, y, x] != 255
    ]
    assert make()(predicted(colors), label).item() == pytest.approx(np.mean(errors), rel=1e-5)


def test_true_colours_cost_nothing_and_black_for_white_costs_one():
    label = torch.tensor([[[0, 1], [2, 3]]])
    assert make()(predicted(PALETTE[label].permute(0, 3, 1, 2)), label) == 0
    assert make()(predicted(torch.zeros(1, 3, 2, 2)), torch.full((1, 2, 2), 3)) == 1


@pytest.mark.parametrize("ignore_index", [255, 65535, -100])
def test_nothing_labelled_is_zero_with_a_gradient(ignore_index):
    colors = torch.rand(1, 3, 2, 2, requires_grad=True)
    loss = make(ignore_index)(predicted(colors), torch.full((1, 4, 4), ignore_index))
    loss.backward()
    assert loss == 0
    assert not colors.grad.any()


def test_bf16_colours_are_compared_in_full_precision():
    colors = torch.rand(1, 3, 4, 4).bfloat16()
    label = torch.randint(0, 4, (1, 8, 8))
    assert make()(predicted(colors), label) == make()(predicted(colors.float()), label)


def test_models_without_colours_are_sent_to_the_color_task():
    with pytest.raises(ValueError, match=r"segbench\.tasks\.color\.ColorTask"):
        make()(Prediction(torch.zeros(1, 4, 2, 2)), torch.zeros(1, 2, 2, dtype=torch.long))

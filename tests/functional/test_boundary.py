import numpy as np
import pytest
import torch
from reference.slow_losses import slow_boundary

from segbench.functional.boundary import boundary_target


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
@pytest.mark.parametrize("shape", [(2, 9, 12), (1, 1, 5), (1, 3, 3), (1, 2, 2)])
def test_equals_the_loop(shape, dtype):
    label = torch.randint(0, 2, shape, dtype=dtype)
    label[torch.rand(shape) < 0.05] = 255
    boundary, defined = boundary_target(label, 255)
    expected = slow_boundary(label.numpy(), 255)
    np.testing.assert_array_equal(boundary.numpy(), expected[0])
    np.testing.assert_array_equal(defined.numpy(), expected[1])


def test_both_sides_of_a_change_are_marked_and_corners_are_not():
    label = torch.zeros(1, 6, 7, dtype=torch.uint8)
    label[:, :3, :4] = 1
    boundary, defined = boundary_target(label, 255)
    assert boundary[0, 1:-1, 1:-1].int().tolist() == [
        [0, 0, 1, 1, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0],
    ]
    assert defined[0].sum() == 4 * 5  # the frame is not


def test_beside_an_ignored_pixel_nobody_knows():
    label = torch.zeros(1, 5, 5, dtype=torch.int64)
    label[0, 2, 2] = -1
    boundary, defined = boundary_target(label, -1)
    assert not boundary.any()
    assert defined[0, 1:4, 1:4].int().tolist() == [[1, 0, 1], [0, 0, 0], [1, 0, 1]]


def test_an_ignore_index_that_is_also_a_class_is_unknown():
    label = torch.tensor([[[0, 0, 0], [1, 0, 2], [1, 1, 1]]])
    assert not boundary_target(label, 0)[1].any()

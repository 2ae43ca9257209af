import pytest
import torch

from segbench.functional.labels import split_labels, valid_share


def test_ignored_pixels_become_class_0_that_does_not_count():
    known, valid = split_labels(torch.tensor([[3, 255], [0, 255]], dtype=torch.uint8), 4, 255)
    assert known.tolist() == [[3, 0], [0, 0]]
    assert known.dtype == torch.int64
    assert valid.tolist() == [[True, False], [True, False]]


@pytest.mark.parametrize("stray", [4, -1])
def test_labels_that_are_no_class(stray):
    with pytest.raises(
        ValueError, match=rf"label {stray} is neither one of the 4 classes nor ignore_index; set"
    ):
        split_labels(torch.tensor([0, stray]), 4, 255)


def test_share_of_labelled_pixels():
    label = torch.zeros(1, 4, 6, dtype=torch.uint8)
    label[0, :2, :3] = 255
    label[0, 3, 5] = 255
    share = valid_share(label, 255, (2, 2))
    torch.testing.assert_close(share, torch.tensor([[[0.0, 1.0], [1.0, 5 / 6]]]))

import pytest
import torch

from segbench.commands.bench.maps import block_labels, mixed_share, smooth_logits


@pytest.mark.parametrize("mixed", [0.15, 0.4])
def test_regions_are_as_large_as_asked(mixed):
    logits = smooth_logits(20, (24, 32), batch=2, mixed=mixed)
    assert logits.shape == (2, 20, 24, 32)
    assert abs(mixed_share(logits) - mixed) < 0.03
    assert abs(logits.std().item() - 3) < 1e-3


def test_mixed_cells_are_those_whose_corners_differ():
    logits = torch.zeros(1, 2, 3, 4)
    logits[0, 1, 0, 0] = 1  # one corner of six cells
    assert mixed_share(logits) == pytest.approx(1 / 6)


def test_labels_are_blocks_with_a_part_unlabelled():
    labels = block_labels(5, (640, 650), batch=2)
    assert labels.shape == (2, 640, 650)
    assert set(labels.unique().tolist()) == {0, 1, 2, 3, 4, 255}
    assert (labels[:, :32, :32] == labels[:, :1, :1]).all()
    assert 0.05 < (labels == 255).float().mean() < 0.2
    assert labels.dtype == torch.uint8


@pytest.mark.parametrize(("num_classes", "ignore_index"), [(300, 255), (3, -100), (400, 65535)])
def test_labels_beyond_bytes(num_classes, ignore_index):
    labels = block_labels(num_classes, (1600, 1600), ignore_index=ignore_index)
    assert (labels == ignore_index).any()
    assert num_classes - 3 <= labels[labels != ignore_index].max() < num_classes

"""Classes, their order and colours, and the ids of every dataset, against tables beside the tests."""

from pathlib import Path

import numpy as np
import pytest

from segbench.data.spec import DatasetSpec
from segbench.data.synthetic import find_dataset as find

GOLDEN = Path(__file__).parents[1] / "golden"
PUBLISHED = ["ade20k", "cityscapes", "cityscapes_pairs", "deepfashion", "camvid"]


def table(name):
    """Reads lines `file-id red green blue name`."""
    rows = [line.split(maxsplit=4) for line in (GOLDEN / f"{name}_classes.txt").read_text().splitlines()]
    return [(int(row[0]), tuple(map(int, row[1:4])), row[4]) for row in rows]


@pytest.mark.parametrize(
    ("dataset", "file"),
    [
        ("ade20k", "ade20k"),
        ("cityscapes", "cityscapes"),
        ("cityscapes_pairs", "cityscapes"),
        ("deepfashion", "deepfashion"),
    ],
)
def test_classes_colours_and_ids_are_the_official_ones(dataset, file):
    spec = find(dataset).spec
    official = table(file)
    assert list(zip(spec.palette, spec.classes, strict=True)) == [(color, name) for _, color, name in official]
    file_ids = np.array([[file_id for file_id, _, _ in official]], np.uint8)
    assert spec.decode(file_ids).tolist() == [list(range(len(official)))]
    assert spec.encode(np.arange(len(official))[None]).tolist() == file_ids.tolist()


@pytest.mark.parametrize("dataset", PUBLISHED)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_id_of_a_file_is_a_class_or_ignored_and_goes_back(dataset, dtype):
    spec: DatasetSpec = find(dataset).spec
    known = [i for i in range(256) if _is_known(spec, i)]
    labels = spec.decode(np.array([known], dtype))
    assert set(labels[0].tolist()) == {*range(spec.num_classes), 255}
    back = spec.encode(labels)
    for file_id, label, again in zip(known, labels[0].tolist(), back[0].tolist(), strict=True):
        assert spec.decode(np.array([[again]], dtype)).tolist() == [[label]]
        assert again == file_id or label == 255  # many ids may mean no class; a class has one
    assert 255 in known
    assert len(known) < 256


def _is_known(spec, file_id):
    try:
        spec.decode(np.array([[file_id]], np.uint8))
    except ValueError:
        return False
    return True


def test_ignored_pixels_are_written_as_each_dataset_has_them():
    ignored = np.array([[255]])
    assert {name: find(name).spec.encode(ignored).tolist() for name in PUBLISHED} == {
        "ade20k": [[0]],  # other
        "cityscapes": [[0]],  # unlabeled
        "cityscapes_pairs": [[0]],
        "deepfashion": [[255]],  # background is a class
        "camvid": [[11]],  # void
    }


def test_camvid():
    spec = find("camvid").spec
    named = dict(zip(spec.classes, spec.palette, strict=True))
    assert list(named)[::5] == ["sky", "tree", "bicyclist"]
    assert named["pole"] == (192, 192, 128)
    assert spec.decode(np.array([[0, 10, 11, 255]], np.uint8)).tolist() == [[0, 10, 255, 255]]

"""ADE20K in its own layout."""

import numpy as np
import pytest

from segbench.data.ade20k import ADE20K, ADE20K_LAYOUT, ADE20K_SPEC
from segbench.data.io.files import read_mask
from segbench.data.synthetic import write_synthetic


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    parent = tmp_path_factory.mktemp("ade")
    root = parent / "ADEChallengeData2016"
    write_synthetic(root, ADE20K_SPEC, ADE20K_LAYOUT, {"train": 3, "val": 2}, size=(48, 64))
    return parent


def test_classes_and_colours_are_the_challenge_s():
    assert len(ADE20K_SPEC.classes) == len(ADE20K_SPEC.palette) == 150
    named = dict(zip(ADE20K_SPEC.classes, ADE20K_SPEC.palette, strict=True))
    assert named["wall"] == (120, 120, 120)
    assert named["sky"] == (6, 230, 230)
    assert named["chest of drawers"] == (6, 51, 255)
    assert named["flag"] == (92, 0, 255)
    assert ADE20K_SPEC.classes[20] == "car"
    assert ADE20K_SPEC.classes[149] == "flag"


@pytest.mark.parametrize("below", ["", "ADEChallengeData2016"])
def test_root_is_the_folder_or_its_parent(parent, below):
    data = ADE20K(parent / below, num_workers=0)
    data.setup("fit")
    data.setup("test")
    assert [pair.name for pair in data.dataset("train").pairs] == [f"ADE_train_{i:08d}" for i in (1, 2, 3)]
    assert data.dataset("test").pairs == data.dataset("val").pairs
    assert data.dataset("val").pairs[0].image.parent == parent / "ADEChallengeData2016/images/validation"
    assert data.num_classes == 150


def test_files_hold_0_for_other_and_labels_one_higher(parent):
    dataset = ADE20K(parent, num_workers=0).dataset("train")
    for i, pair in enumerate(dataset.pairs):
        ids, label = read_mask(pair.label).astype(int), dataset.read(i).label
        assert np.array_equal(label, np.where(ids == 0, 255, ids - 1))


def test_without_the_data_one_line_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        ADE20K(tmp_path / "none", num_workers=0).setup("fit")
    text = str(error.value)
    assert "\n" not in text
    for part in (
        "images/{split}",
        "annotations/{split}",
        "ADEChallengeData2016.zip",
        "experiments/data/synthetic.yaml",
    ):
        assert part in text

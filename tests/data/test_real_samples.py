"""Real photographs with real labels, where SEGBENCH_REAL_SAMPLES names a folder that has them."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from segbench.data.cityscapes import Cityscapes
from segbench.data.io.files import read_mask
from segbench.data.synthetic import find_dataset as find
from segbench.visualization import pictures

FOLDER = os.environ.get("SEGBENCH_REAL_SAMPLES")
pytestmark = pytest.mark.skipif(
    FOLDER is None, reason="SEGBENCH_REAL_SAMPLES names no folder; the datasets' terms forbid to ship theirs"
)


@pytest.fixture(params=["ade20k", "cityscapes", "deepfashion"])
def samples(request, tmp_path):
    """All samples of a dataset in its own layout, with the spec of the dataset."""
    source = Path(FOLDER or ".") / {"deepfashion": "deepfashion_multimodal"}.get(request.param, request.param)
    root = Path(shutil.copytree(source, tmp_path / "root"))
    splits = {"ade20k": ["val"], "cityscapes": ["train", "val"], "deepfashion": ["train"]}[request.param]
    data = find(request.param)(root, num_workers=0)
    datasets = [data.dataset(split) for split in splits]
    return request.param, data, [(d.pairs[i], d.read(i)) for d in datasets for i in range(len(d))]


def slow_label(dataset, file_ids):
    """Turns ids into training ids as the datasets' own pages say."""
    ids = file_ids.astype(int)
    if dataset == "ade20k":
        return np.where(ids == 0, 255, ids - 1)
    if dataset == "deepfashion":
        return ids
    official = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    label = np.full_like(ids, 255)
    for training_id, label_id in enumerate(official):
        label[ids == label_id] = training_id
    return label


def test_every_sample_is_read_decoded_and_painted(samples, tmp_path):
    dataset, data, read = samples
    assert len(read) == {"ade20k": 3, "cityscapes": 4, "deepfashion": 1}[dataset]
    out = Path(os.environ.get("SEGBENCH_REAL_SAMPLES_OUT") or tmp_path)  # to be looked at
    out.mkdir(parents=True, exist_ok=True)
    for pair, sample in read:
        assert sample.image.shape[:2] == sample.label.shape
        file_ids = read_mask(pair.label)
        assert np.array_equal(sample.label, slow_label(dataset, file_ids))
        assert np.array_equal(data.spec.decode(data.spec.encode(sample.label)), sample.label)
        painted = pictures.colorize(sample.label, data.palette)
        for label in np.unique(sample.label):
            color = (0, 0, 0) if label == 255 else data.palette[label]
            assert (painted[sample.label == label] == color).all()
        present = [int(label) for label in np.unique(sample.label) if label != 255]
        tiles = [
            ("image", sample.image),
            ("label", painted),
            ("overlay", pictures.overlay(sample.image, painted)),
        ]
        tiles = [(title, np.asarray(pictures.shrink(tile, 480), np.uint8)) for title, tile in tiles]
        names, colors = ([values[i] for i in present] for values in (data.class_names, data.palette))
        pictures.write_png(str(out / f"{dataset}-{sample.name}.png"), pictures.panel(tiles, names, colors))


def test_training_ids_differ_from_label_ids_only_where_they_were_resampled():
    root = Path(FOLDER or ".") / "cityscapes"
    ours, theirs = (
        Cityscapes(root, num_workers=0, labels=labels).dataset("val").read(0).label
        for labels in ("labelIds", "labelTrainIds")
    )
    assert (ours != theirs).sum() == 77  # at borders: that one file was shrunk on its own


def test_real_masks_of_deepfashion_hold_classes_behind_a_palette():
    masks = sorted((Path(FOLDER or ".") / "deepfashion_multimodal" / "masks_only_256x512").glob("*.png"))
    spec = find("deepfashion").spec
    seen = set()
    for path in masks:
        ids = read_mask(path)
        assert np.array_equal(spec.decode(ids), ids)
        seen |= set(np.unique(ids).tolist())
    assert len(masks) == 20
    assert seen == set(range(24)) - {spec.classes.index(name) for name in ("neckwear", "socks", "gloves")}

import itertools
import math
import re

import pytest
import torch

from segbench.commands.bench import loading
from segbench.commands.bench.loading import CROP, SCALE, SIZE, load_in_stages, section, write_pairs
from segbench.commands.bench.loading_peers import MMSegManner, PlainAlbumentations
from segbench.commands.bench.section import Clock
from segbench.data.ade20k import ADE20K
from segbench.data.loading.dataset import collate
from segbench.data.loading.sampling import SampleIndex


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("pairs")
    write_pairs(root, 3, SIZE)
    return ADE20K(root, img_size=CROP, scale=SCALE).dataset("train")


def test_stages_do_what_the_dataset_does(dataset):
    (batch,), seconds = load_in_stages(dataset, [[2, 0, 1]], first=5)
    whole = collate([dataset[SampleIndex(i, 5 + n)] for n, i in enumerate([2, 0, 1])])
    assert batch.name == whole.name
    assert torch.equal(batch.image, whole.image)
    assert torch.equal(batch.label, whole.label)
    assert len(seconds) == 10
    assert min(seconds.values()) > 0


@pytest.mark.parametrize("pipeline", [MMSegManner(CROP, SCALE), PlainAlbumentations(CROP)])
def test_peers_load_the_same_files_into_normalised_floats(dataset, pipeline):
    ids = set(itertools.chain(*(dataset.read(i).label.ravel().tolist() for i in range(3))))
    grey = 0.0
    for pair in dataset.pairs * 3:
        image, label = pipeline(pair.image, pair.label)
        assert image.shape == (3, *CROP)
        assert image.dtype == torch.float32
        assert label.shape == CROP
        assert label.dtype == torch.int64
        assert set(label.unique().tolist()) <= ids | {255}
        assert len(label.unique()) > 1
        grey += image.mean().item() / 9
    assert -1.5 < grey < 1.5


def test_one_round_is_measured():
    table = section(images=2, batch_size=2)
    measure = table.cases["2 images"]
    rows = measure(Clock(torch.device("cpu"), repeats=1))
    names = ["MMSegmentation's manner", "plain albumentations", "segbench"]
    for where in ("one process", "one worker"):
        chosen = [row for row in rows if row["where"] == where]
        assert [row["variant"] for row in chosen] == names
        assert chosen[0]["speed_up"] == 1 == chosen[1]["second_speed_up"]
    assert all(row["median_s"] > 0 for row in rows)
    assert math.isclose(sum(row["share"] for row in rows if row["where"] == "stage"), 1)
    image, label = map(int, re.findall("([0-9]+) KiB", rows[0]["case"]))
    assert 40 < image < 160
    assert 0 < label < 10
    for row in rows:
        assert [column.text(column.value(row)) for column in table.columns if column.value(row) is not None]


def test_reduced_decoding_is_measured_against_full(monkeypatch):
    monkeypatch.setattr(loading, "LARGE", (600, 800))
    table = section(images=32)
    full, reduced = table.cases["large photographs"](Clock(torch.device("cpu"), repeats=1))
    assert full["reduced_speed_up"] == 1
    assert reduced["reduced_speed_up"] > 0
    assert "JPEG of 800×600" in reduced["case"]

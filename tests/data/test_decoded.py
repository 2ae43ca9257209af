import numpy as np
import pytest
import torch

from segbench.data.ade20k import ADE20K
from segbench.data.decoded import DecodedFiles
from segbench.data.sampling import Draw


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGBENCH_CACHE", str(tmp_path / "cache"))
    layout, spec = ADE20K.layout, ADE20K.spec
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for index in (1, 2):
            label = rng.integers(0, 150, (40, 50)).astype(np.uint8)
            pair = layout.place(tmp_path / "data", split, index)
            layout.write(pair, rng.integers(0, 256, (40, 50, 3), np.uint8), spec.encode(label))

    def build(**options):
        return ADE20K(tmp_path / "data", img_size=(32, 32), **options)

    return build


def test_arrays_hold_what_the_files_hold_and_files_are_opened_once(data, monkeypatch):
    opened = []
    kind = type(ADE20K.layout)
    read = kind.read
    monkeypatch.setattr(kind, "read", lambda self, pair: (opened.append(pair.name), read(self, pair))[1])
    plain, cached = data().dataset("train"), data(cache=True).dataset("train")
    for number in range(6):
        want, got = plain[Draw(number % 2, number)], cached[Draw(number % 2, number)]
        assert torch.equal(want.image, got.image)
        assert torch.equal(want.label, got.label)
    assert len(opened) == 6 + 2
    for index in (0, 1):
        np.testing.assert_array_equal(
            plain.read(index).image, data(cache=True).dataset("train").read(index).image
        )
    assert len(opened) == 6 + 2 + 2


def test_a_changed_file_is_decoded_anew(data):
    dataset = data(cache=True).dataset("val")
    before = dataset.read(0).label
    pair = dataset.pairs[0]
    ADE20K.layout.write(pair, dataset.read(0).image, ADE20K.spec.encode((before + 1) % 150))
    np.testing.assert_array_equal(dataset.read(0).label, (before + 1) % 150)


def test_without_room_it_says_what_to_do_and_leaves_nothing(data, monkeypatch, tmp_path):
    def full(*_):
        raise OSError(28, "No space left on device")

    dataset = data(cache=True).dataset("train")
    monkeypatch.setattr(np, "save", full)
    with pytest.raises(ValueError, match="no room for ADE_train_00000001"):
        dataset.read(0)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_another_reader_has_arrays_of_its_own(data):
    pair = data().dataset("train").pairs[0]

    class Other(type(ADE20K.layout)):
        def read(self, pair):
            image, mask = super().read(pair)
            return image, 255 - mask

    first, second = DecodedFiles(ADE20K.layout), DecodedFiles(Other(**vars(ADE20K.layout)))
    for _ in range(2):
        np.testing.assert_array_equal(first(pair)[1], 255 - second(pair)[1])

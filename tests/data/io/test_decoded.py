import errno
import resource

import numpy as np
import pytest
import torch

from segbench.data.ade20k import ADE20K
from segbench.data.io.decoded import DecodedFiles, _save
from segbench.data.loading.sampling import SampleIndex


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
        want, got = plain[SampleIndex(number % 2, number)], cached[SampleIndex(number % 2, number)]
        assert torch.equal(want.image, got.image)
        assert torch.equal(want.label, got.label)
    assert len(opened) == 6 + 2
    for index in (0, 1):
        np.testing.assert_array_equal(
            plain.read(index).image, data(cache=True).dataset("train").read(index).image
        )
    assert len(opened) == 6 + 2 + 2


def test_a_changed_file_is_decoded_again(data):
    dataset = data(cache=True).dataset("val")
    before = dataset.read(0).label
    pair = dataset.pairs[0]
    ADE20K.layout.write(pair, dataset.read(0).image, ADE20K.spec.encode((before + 1) % 150))
    np.testing.assert_array_equal(dataset.read(0).label, (before + 1) % 150)


def test_without_room_it_says_what_to_do_and_leaves_nothing(data, monkeypatch, tmp_path):
    def full(*_):
        raise OSError(28, "No space left on device")

    dataset = data(cache=True).dataset("train")
    monkeypatch.setattr("segbench.data.io.decoded._save", full)
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


def cut(path):
    path.write_bytes(path.read_bytes()[:-1000])


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "cut": cut,
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "a bit of the array": lambda path: flip(path, 1000),
    "a bit of the type": lambda path: flip(path, 22),
    "without its checksum, as by hand": lambda path: np.save(path, np.zeros((40, 50, 3), np.uint8)),
}


@pytest.mark.parametrize("which", ["image", "mask"])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_arrays_are_made_again(data, tmp_path, damage, which):
    want = data().dataset("train").read(0)
    data(cache=True).dataset("train").read(0)
    (path,) = (tmp_path / "cache" / "decoded").glob(f"*/*-{which}.npy")
    whole = path.read_bytes()
    damage(path)
    for _ in range(2):
        got = data(cache=True).dataset("train").read(0)
        np.testing.assert_array_equal(got.image, want.image)
        np.testing.assert_array_equal(got.label, want.label)
        assert path.read_bytes() == whole


def test_arrays_cut_while_they_are_in_use_are_made_again(data, tmp_path):
    dataset = data(cache=True).dataset("train")
    want = dataset.read(0).image.copy()
    dataset.read(0)
    cut(next((tmp_path / "cache" / "decoded").glob("*/*-image.npy")))
    np.testing.assert_array_equal(dataset.read(0).image, want)


def test_a_disk_that_fills_up_while_an_array_is_written_is_told(data, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as told:  # with its number, as ENOSPC has one
            data(cache=True).dataset("train").read(0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert told.value.errno == errno.EFBIG
    assert told.value.filename.endswith("-image.npy")


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (0, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_any_array_is_a_plain_npy_file(tmp_path, shape, dtype):
    array = np.arange(np.prod(shape)).astype(dtype).reshape(shape)
    for number, given in enumerate((array, array.T, array[::2])):
        _save(tmp_path / f"{number}.npy", given)
        np.testing.assert_array_equal(np.load(tmp_path / f"{number}.npy"), given)

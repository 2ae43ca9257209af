"""Training on JPEGs that were decoded smaller: the same windows and labels, and nearly the same pixels."""

import re

import cv2
import numpy as np
import pytest
from PIL import Image

from segbench.data.ade20k import ADE20K
from segbench.data.augment import View, randomness
from segbench.data.cityscapes_pairs import PairsLayout
from segbench.data.deepfashion import DeepFashion
from segbench.data.folder import FolderDataModule
from segbench.data.io.files import read_image
from segbench.data.io.scaled_jpeg import read_reduced_image
from segbench.data.loading.sampling import SampleIndex
from segbench.data.transforms import RandomScale

SIZE = (203, 301)  # no multiple of 8


def smooth(seed, size=SIZE):
    """Draws large soft patches of colour, which survive JPEG and scaling."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC), np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Six photographs with painted masks; one lies on its side and is turned by its EXIF tag."""
    for i in range(6):
        image, mask = smooth(i), np.zeros(SIZE, np.uint8)
        mask[i * 20 :, 100:] = 1
        mask[:, 200:] = 2
        path = tmp_path / "images" / f"{i}.jpg"
        path.parent.mkdir(exist_ok=True)
        exif = Image.Exif()
        exif[0x0112] = 6 if i == 3 else 1
        stored = np.rot90(image) if i == 3 else image
        Image.fromarray(np.ascontiguousarray(stored)).save(path, quality=95, exif=exif)
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(np.array([[9, 9, 9], [255, 0, 0], [0, 0, 255]], np.uint8)[mask]).save(
            tmp_path / "masks" / f"{i}.png"
        )

    def build(**options):
        return FolderDataModule(
            tmp_path,
            classes=["9 9 9 a", "255 0 0 b", "0 0 255 c"],
            splits={"val": 0.2},
            img_size=(48, 64),
            scale=(100, 70),
            num_workers=0,
            **options,
        )

    return build


@pytest.fixture
def asked(monkeypatch):
    """Collects the reductions that photographs were read with."""
    found = []

    def read(path, size, reduction):
        image, done = read_reduced_image(path, size, reduction)
        found.append(done)
        return image, done

    monkeypatch.setattr("segbench.data.loading.dataset.read_reduced_image", read)
    return found


def test_labels_are_the_same_and_pixels_nearly(folder, asked):
    plain, reduced = folder().dataset("train"), folder(reduced_decode=True).dataset("train")
    for number in range(60):
        want, got = (d[SampleIndex(number % len(d), number)] for d in (plain, reduced))
        assert want.name == got.name
        assert (want.label == got.label).all()
        difference = (want.image.int() - got.image.int()).abs().float()
        assert difference.mean() < 6  # by half a pixel; another window, or its mirror image, is 60 away
    assert {1, 2, 4} <= set(asked)
    assert len(asked) == 60


def test_only_as_small_as_the_crop_needs(folder, asked):
    dataset = folder(reduced_decode=True).dataset("train")
    for number in range(40):
        label = dataset.read(number % len(dataset)).label
        view = dataset.augment.draw(label, randomness(dataset.augment.seed, number))
        dataset[SampleIndex(number % len(dataset), number)]
        scale = view.size[0] / (view.rows.stop - view.rows.start)
        assert asked[-1] * scale <= 1.05 or asked[-1] == 1  # windows begin and end at whole pixels
        assert asked[-1] * scale > 0.45


def test_a_window_is_found_at_the_nearest_pixels():
    view = View(slice(3, 43), slice(0, 203), (10, 50), False)
    assert view.reduced(4) == View(slice(1, 11), slice(0, 51), (10, 50), False)
    assert view.reduced(4).is_shrunk()
    assert not view.reduced(8).is_shrunk()


def test_evaluation_reads_in_full(folder, asked):
    data = folder(reduced_decode=True)
    item = data.dataset("val")[0]
    assert item.image.shape[1:] == SIZE
    assert not asked


def test_a_mask_of_another_size_is_refused_with_the_true_sizes(folder):
    data = folder(reduced_decode=True)
    pair = data.dataset("train").pairs[0]
    for size in ((SIZE[0] + 1, SIZE[1]), (SIZE[0] // 2, SIZE[1] // 2), SIZE[::-1]):
        Image.fromarray(np.full((*size, 3), 9, np.uint8)).save(pair.label)
        said = re.escape(f"{size[1]}x{size[0]} pixels, its image {pair.image.name} {SIZE[1]}x{SIZE[0]}")
        with pytest.raises(ValueError, match=said):
            data.dataset("train")[SampleIndex(0, 1)]


def test_what_is_no_jpeg_is_read_in_full_whatever_it_is_called(tmp_path):
    image = smooth(1)
    for name in ("a.png", "b.jpg"):
        Image.fromarray(image).save(tmp_path / name, "PNG")
        read, done = read_reduced_image(tmp_path / name, SIZE, 4)
        assert done == 1
        assert np.array_equal(read, image)


def test_a_reduced_photograph_is_the_full_one_made_smaller(tmp_path):
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    for orientation in range(1, 9):
        exif[0x0112] = orientation
        Image.fromarray(smooth(2)).save(path, quality=95, exif=exif)
        full = read_image(path)
        for reduction in (2, 4, 8):
            small, done = read_reduced_image(path, full.shape[:2], reduction)
            assert done == reduction
            assert small.shape[:2] == tuple(-(-side // reduction) for side in full.shape[:2])
            means = cv2.resize(full, small.shape[1::-1], interpolation=cv2.INTER_AREA)
            assert np.abs(means.astype(int) - small).mean() < 8  # turned otherwise, it is 60 away


def test_a_cut_jpeg_is_refused(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(smooth(2)).save(path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ValueError, match="damaged or cut short"):
        read_reduced_image(path, SIZE, 2)


def test_options_that_contradict_it_are_refused(folder, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="cache and reduced_decode contradict"):
        folder(reduced_decode=True, cache=True)
    with pytest.raises(ValueError, match="standard augmentation alone"):
        folder(reduced_decode=True, train_transforms=[RandomScale()])
    with pytest.raises(ValueError, match="standard augmentation alone"):
        DeepFashion(tmp_path, reduced_decode=True)
    assert DeepFashion(tmp_path, reduced_decode=True, scale=(1101, 750)).reduced_decode
    monkeypatch.setattr(ADE20K, "layout", PairsLayout())
    with pytest.raises(ValueError, match="PairsLayout opens photographs in its own way"):
        ADE20K(tmp_path, reduced_decode=True)


def test_it_warns_where_there_is_nothing_to_reduce(folder):
    data = folder(reduced_decode=True)
    for path in (data.root / "images").iterdir():
        image = read_image(path)
        path.unlink()
        Image.fromarray(image).save(path.with_suffix(".png"))
    with pytest.warns(UserWarning, match="none of the 5 training images is a JPEG"):
        data.dataset("train")

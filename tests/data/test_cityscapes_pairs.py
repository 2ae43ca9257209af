"""Cityscapes as image pairs: labels found in the colours that JPEG left."""

import shutil
from pathlib import Path

import albumentations as A
import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from segbench.__main__ import main
from segbench.data import cityscapes_pairs
from segbench.data.cityscapes_classes import (
    CITYSCAPES_SPEC,
    LABEL_COLORS,
    nearest_label_ids,
    paint_label_ids,
)
from segbench.data.cityscapes_pairs import CityscapesPairs, PairsLayout
from segbench.data.scene import generate_scene
from segbench.data.synthetic import write_synthetic

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
SIZE = (64, 64)


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    root = tmp_path_factory.mktemp("pairs") / "cityscapes_data"
    write_synthetic(root, CITYSCAPES_SPEC, PairsLayout(), {"train": 11, "val": 4}, SIZE)
    return root


def module(root, **arguments):
    return CityscapesPairs(root, **({"img_size": SIZE, "batch_size": 2, "num_workers": 0} | arguments))


def interior(label):
    """Pixels two steps from any other label."""
    kernel = np.ones((5, 5), np.uint8)
    return cv2.dilate(label, kernel) == cv2.erode(label, kernel)


def test_the_nineteen_classes_are_the_official_ones():
    known = dict(enumerate(zip(CITYSCAPES_SPEC.classes, CITYSCAPES_SPEC.palette, strict=True)))
    assert len(known) == 19
    assert known[0] == ("road", (128, 64, 128))
    assert known[5] == ("pole", (153, 153, 153))
    assert known[13] == ("car", (0, 0, 142))
    assert known[18] == ("bicycle", (119, 11, 32))
    official = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    label_ids = np.arange(34, dtype=np.uint8)[None]
    expected = [official.index(i) if i in official else 255 for i in range(34)]
    assert CITYSCAPES_SPEC.decode(label_ids).tolist() == [expected]


def test_colours_of_the_labels():
    assert len(LABEL_COLORS) == 34
    assert set(LABEL_COLORS[:5]) == {(0, 0, 0)}
    assert {i: LABEL_COLORS[i] for i in (5, 6, 9, 10, 14, 15, 16, 18, 29, 30)} == {
        5: (111, 74, 0),
        6: (81, 0, 81),
        9: (250, 170, 160),
        10: (230, 150, 140),
        14: (180, 165, 180),
        15: (150, 100, 100),
        16: (150, 120, 90),
        18: (153, 153, 153),
        29: (0, 0, 90),
        30: (0, 0, 110),
    }


def test_every_colour_means_its_label():
    """But for those that look alike: poles and groups of them, and the five that are black."""
    found = nearest_label_ids(paint_label_ids(np.arange(34)[None]))[0]
    expected = np.arange(34)
    expected[:5], expected[18] = 0, 17
    assert found.tolist() == expected.tolist()


def test_the_nearest_colour_is_found_exactly():
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 256, (60, 50, 3)).astype(np.uint8)
    found = nearest_label_ids(colors)
    for row in range(60):
        for column in range(50):
            distances = [
                sum((int(a) - b) ** 2 for a, b in zip(colors[row, column], color, strict=True))
                for color in LABEL_COLORS
            ]
            assert found[row, column] == distances.index(min(distances))


def test_a_twin_of_the_real_layout_is_read_back(twin):
    data = module(twin)
    assert [len(data.dataset(split)) for split in ("train", "val", "test", "predict")] == [11, 4, 4, 4]
    with Image.open(twin / "train" / "11.jpg") as picture:
        assert (picture.format, picture.size) == ("JPEG", (128, 64))
    wrong = {"inside": [], "everywhere": []}
    for i, pair in enumerate(data.dataset("train").pairs):
        image, label = generate_scene(int(pair.name) - 1, 19, SIZE)
        sample = data.dataset("train").read(i)
        assert sample.image.shape == (64, 64, 3)
        assert sample.label.shape == SIZE
        assert np.abs(sample.image.astype(int) - image).mean() < 8
        inside = interior(label.astype(np.uint8))
        wrong["inside"].append((sample.label != label)[inside].mean())
        wrong["everywhere"].append((sample.label != label).mean())
    assert np.mean(wrong["inside"]) < 0.001
    assert np.mean(wrong["everywhere"]) < 0.08  # along edges JPEG mixes colours


@pytest.mark.parametrize(("quality", "subsampling"), [(75, 2), (85, 2), (95, 0)])
def test_jpeg_flips_hardly_a_pixel_away_from_edges(tmp_path, quality, subsampling):
    flips = []
    for i in range(4):
        image, label = generate_scene(i, 19, (256, 256))
        picture = np.concatenate([image, paint_label_ids(CITYSCAPES_SPEC.encode(label))], 1)
        path = tmp_path / "train" / f"{i}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(picture).save(path, quality=quality, subsampling=subsampling)
        flips.append(
            (module(tmp_path).dataset("train").read(i).label != label)[interior(label.astype(np.uint8))]
        )
    assert np.mean(np.concatenate(flips)) < 0.002


def test_photographs_come_without_their_labels(twin):
    data = module(twin, augment=False, eval_batch_size=4)
    (batch,) = data.val_dataloader()
    assert batch.image.shape == (4, 3, 64, 64)
    assert batch.label.shape == (4, 64, 64)
    for image, name in zip(batch.image, batch.name, strict=True):
        whole = cv2.cvtColor(cv2.imread(str(twin / "val" / f"{name}.jpg")), cv2.COLOR_BGR2RGB)
        assert np.array_equal(image.permute(1, 2, 0), whole[:, :64])


def test_without_augmentation_training_sees_the_files(twin):
    data = module(twin, augment=False)
    for batch in data.train_dataloader():
        for image, label, name in zip(batch.image, batch.label, batch.name, strict=True):
            index = [pair.name for pair in data.dataset("train").pairs].index(name)
            sample = data.dataset("train").read(index)
            assert np.array_equal(image.permute(1, 2, 0), sample.image)
            assert np.array_equal(label, sample.label)


def test_without_augmentation_other_sizes_are_cropped_and_padded(twin):
    data = module(twin, augment=False, img_size=(48, 80))
    batch = next(iter(data.train_dataloader()))
    assert batch.image.shape == (2, 3, 48, 80)
    assert (batch.label[:, :, 64:] == 255).all()
    assert (batch.image[:, :, :, 64:] == 128).all()
    data = module(twin, augment=False, img_size=(32, 32), scale=(32, 32))
    index = [pair.name for pair in data.dataset("train").pairs].index("1")
    expected = cv2.resize(data.dataset("train").read(index).image, (32, 32), interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(data.dataset("train")[index].image.permute(1, 2, 0), expected)


def test_transforms_and_no_augmentation_contradict_each_other(twin):
    with pytest.raises(ValueError, match="augment=false and train_transforms contradict each other"):
        module(twin, augment=False, train_transforms=[A.HorizontalFlip()])


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def found(monkeypatch):
    """Counts how often labels are found again."""
    calls = []

    def count(colors):
        calls.append(colors.shape)
        return nearest_label_ids(colors)

    monkeypatch.setattr(cityscapes_pairs, "nearest_label_ids", count)
    return calls


def test_labels_are_found_once_and_kept_outside_the_dataset(twin, tmp_path, cache, found):
    before = sorted(twin.rglob("*"))
    labels = [module(twin).dataset("val").read(i).label for i in range(4)]
    assert len(found) == 4
    again = module(shutil.copytree(twin, tmp_path / "copy")).dataset("val")  # the content counts, not the place
    assert all(np.array_equal(again.read(i).label, label) for i, label in enumerate(labels))
    assert len(found) == 4
    assert len(list(cache.rglob("*.png"))) == len([path for path in cache.rglob("*") if path.is_file()]) == 4
    assert sorted(twin.rglob("*")) == before
    module(twin, cache_dir=str(tmp_path / "other")).dataset("val").read(0)
    assert len(found) == 5
    assert len(list((tmp_path / "other").rglob("*.png"))) == 1


def test_another_file_or_another_table_is_read_again(twin, tmp_path, cache, found, monkeypatch):
    dataset = module(shutil.copytree(twin, tmp_path / "copy")).dataset("val")
    first = dataset.read(0).label
    shutil.copy(dataset.pairs[1].image, dataset.pairs[0].image)
    assert not np.array_equal(dataset.read(0).label, first)
    assert len(found) == 2
    monkeypatch.setattr(cityscapes_pairs, "LABEL_COLORS", LABEL_COLORS[::-1])
    dataset.read(0)
    assert len(found) == 3


def test_a_damaged_cache_is_rebuilt(twin, cache, found):
    label = module(twin).dataset("val").read(0).label
    (kept,) = cache.rglob("*.png")
    kept.write_bytes(kept.read_bytes()[:50])
    assert np.array_equal(module(twin).dataset("val").read(0).label, label)
    assert len(found) == 2
    module(twin).dataset("val").read(0)
    assert len(found) == 2


def test_workers_share_the_cache(twin, cache):
    shared = list(module(twin, num_workers=2, augment=False).train_dataloader())
    alone = list(module(twin, augment=False, cache_dir=str(cache / "alone")).train_dataloader())
    assert all(torch.equal(a.label, b.label) for a, b in zip(shared, alone, strict=True))


def test_a_cache_that_cannot_be_written_is_one_line(twin, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(PermissionError, match=r"cannot write into .*cache_dir or SEGBENCH_CACHE") as error:
        module(twin, cache_dir=str(tmp_path / "file")).dataset("val").read(0)
    assert "\n" not in str(error.value)


def test_labels_that_are_not_scored_can_be_made_classes(twin, tmp_path):
    picture = np.zeros((8, 16, 3), np.uint8)
    picture[:, 8:] = LABEL_COLORS[9]  # parking
    (tmp_path / "train").mkdir()
    Image.fromarray(picture).save(tmp_path / "train" / "1.jpg", quality=95)
    assert np.unique(module(tmp_path).dataset("train").read(0).label).tolist() == [255]
    assert np.unique(module(tmp_path, remap={9: 1}).dataset("train").read(0).label).tolist() == [1]


def test_root_is_the_folder_or_its_parent(twin):
    for root in (twin, twin.parent):
        data = module(root)
        assert data.dataset("test").pairs == data.dataset("val").pairs
        assert data.dataset("val").pairs[0].image == twin / "val" / "1.jpg"


def test_pairs_are_found_where_they_are_placed(twin):
    placed = [PairsLayout().place(twin, "train", i) for i in range(1, 12)]
    assert sorted(placed) == PairsLayout().pairs(twin, "train")


def test_without_the_data_one_line_says_what_to_do(tmp_path):
    for root in (tmp_path, tmp_path / "none"):
        with pytest.raises(FileNotFoundError, match=f"no folder {root}.* for split 'train'") as error:
            module(root).setup("fit")
        assert "\n" not in str(error.value)
        for part in ("train/N.jpg", "kaggle.com/datasets/dansbecker", "experiments/data/synthetic.yaml"):
            assert part in str(error.value)
    (tmp_path / "train").mkdir()
    with pytest.raises(ValueError, match=r"train holds no image: expected train/N\.jpg"):
        module(tmp_path).setup("fit")


def test_a_picture_that_is_no_pair_is_named(tmp_path):
    (tmp_path / "train").mkdir()
    Image.fromarray(np.zeros((8, 15, 3), np.uint8)).save(tmp_path / "train" / "1.jpg")
    with pytest.raises(
        ValueError, match=r"1\.jpg is 15 pixels wide, so photograph and label cannot be its halves"
    ):
        module(tmp_path).dataset("train").read(0)


TINY = """
model:
  init_args:
    from_scratch: true
    encoder:
      init_args: {model_name: vit_tiny_patch16_384, depths: [0]}
    schedule: {init_args: {warmup_steps: 0}}
data:
  init_args: {img_size: [64, 64], batch_size: 2, num_workers: 0}
trainer:
  accelerator: cpu
  max_steps: 1
  val_check_interval: 1
  enable_progress_bar: false
  enable_model_summary: false
"""


def test_the_overlay_trains(twin, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(TINY)
    configs = [EXPERIMENTS / "linear.yaml", EXPERIMENTS / "data" / "cityscapes_pairs.yaml", "tiny.yaml"]
    arguments = [word for config in configs for word in ("--config", str(config))]
    main(["fit", *arguments, "--data.init_args.root", str(twin), "--data.init_args.augment", "false"])
    (run,) = Path("runs").glob("*/*")
    assert (run / "checkpoints" / "best.ckpt").is_file()
    assert not (run / "splits").exists()  # these splits are the publishers'

"""What the cache holds is what the pipeline makes, and its recipe tells when that would be something else."""

import os
import resource

import albumentations as A
import numpy as np
import pytest
import torch

from segbench.callbacks.feature_cache import store as feature_store
from segbench.callbacks.feature_cache.store import FeatureStore
from segbench.callbacks.feature_cache.views import VIEW_SEED, view, view_dataset, view_recipe
from segbench.data.augment import StandardAugment
from segbench.data.loading.dataset import Item
from segbench.data.loading.sampling import SampleIndex
from segbench.data.synthetic import SyntheticDataModule


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


def module(cache, **options):
    settings = {
        "num_classes": 4,
        "image_size": (40, 48),
        "num_images": {"train": 5, "val": 1, "test": 1},
        "cache_dir": cache,
        "img_size": (32, 24),
        "batch_size": 2,
        "num_workers": 0,
    }
    return SyntheticDataModule(**settings | options)


def items(count=5, label=torch.uint8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        Item(
            torch.randint(0, 256, (3, 6, 5), generator=generator, dtype=torch.uint8),
            torch.randint(0, 200, (6, 5), generator=generator, dtype=torch.uint8).to(label),
            f"image {index}",
            (
                torch.randn(2, 3, 3, generator=generator).half(),
                torch.randn(4, 1, 2, generator=generator).half(),
            ),
        )
        for index in range(count)
    ]


def filled(tmp_path, given, views=2):
    store = FeatureStore(tmp_path, {"a": 1}, [item.name for item in given], views)
    store.describe(given[0])
    for part in store.missing():
        rolled = given[part.view :] + given[: part.view]  # other records in every view
        store.write(part, rolled[part.first : part.stop])
    return store


@pytest.mark.parametrize("label", [torch.uint8, torch.int64])
@pytest.mark.parametrize("images_per_part", [1, 2, 100])
def test_what_is_written_is_read(tmp_path, monkeypatch, label, images_per_part):
    given = items(label=label)
    size = 90 + 30 * (1 if label == torch.uint8 else 2) + 2 * (18 + 8) + 4
    monkeypatch.setattr(feature_store, "PART_BYTES", images_per_part * size)
    filled(tmp_path, given)
    store = FeatureStore(tmp_path, {"a": 1}, [item.name for item in given], 2)  # as the next run opens it
    assert store.missing() == []
    assert store.bytes_per_image == size
    for visit in range(5):
        for index in range(5):
            expected = given[(index + visit % 2) % 5]
            found = store.item(SampleIndex(index, 77, visit))
            assert found.name == f"image {index}"
            assert found.label.dtype == label
            for one, other in zip((*found[:2], *found.maps), (*expected[:2], *expected.maps), strict=True):
                assert torch.equal(one, other)
                one.fill_(0)  # memory of its own: the file stays as it is


def test_labels_beyond_bytes_survive(tmp_path):
    given = [item._replace(label=item.label.long() + 65000) for item in items()]
    store = filled(tmp_path, given)
    assert torch.equal(store.item(SampleIndex(3, 0, 0)).label, given[3].label)


def test_shares_of_processes_are_all_parts_once(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_store, "PART_BYTES", 1)
    store = FeatureStore(tmp_path, {}, list("abcde"), 3)
    store.describe(items()[0])
    shares = [store.missing(rank, 2) for rank in range(2)]
    assert sorted(shares[0] + shares[1]) == sorted(store.missing())
    assert len(store.missing()) == 15
    # What others have written meanwhile moves nobody's share.
    store.write(shares[0][0], items(1))
    assert store.missing(1, 2) == shares[1]
    assert store.missing(0, 2) == shares[0][1:]


def test_other_recipes_have_other_folders(tmp_path):
    one, other = (FeatureStore(tmp_path, {"a": value}, ["x"], 1) for value in (1, 2))
    assert one.folder != other.folder
    assert FeatureStore(tmp_path, {"a": 1}, ["x"], 4).folder == one.folder


def test_mistakes(tmp_path):
    given = items()
    store = FeatureStore(tmp_path, {}, [item.name for item in given], 1)
    with pytest.raises(ValueError, match="nothing was encoded yet"):
        store.item(SampleIndex(0, 0))
    store.describe(given[0])
    (part,) = store.missing()
    wide = given[2]._replace(image=torch.zeros(3, 6, 7, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"image 2 comes out of train_transforms as 7x6, others as 5x6"):
        store.write(part, [*given[:2], wide, *given[3:]])
    huge = given[4]._replace(maps=(given[4].maps[0] * float("inf"), given[4].maps[1]))
    with pytest.raises(ValueError, match="features of image 4 do not fit into 16 bits"):
        store.write(part, [*given[:4], huge])
    assert store.missing() == [part]
    (store.folder / "store.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged: delete the folder"):
        FeatureStore(tmp_path, {}, ["x"], 1)
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(PermissionError, match="name another place by SEGBENCH_CACHE"):
        FeatureStore(blocked, {}, ["x"], 1).describe(given[0])


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 4
    path.write_bytes(content)


DAMAGES = {
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "a page of zeros": lambda path: path.write_bytes(bytes(60) + path.read_bytes()[60:]),
    "a bit of the pixels": lambda path: flip(path, 0),
    "a bit of the maps": lambda path: flip(path, 90 + 30 + 3),
    "a bit of the checksum": lambda path: flip(path, -1 - 4 * 4),
    "two records changed for each other": lambda path: path.write_bytes(
        path.read_bytes()[172:344] + path.read_bytes()[:172] + path.read_bytes()[344:]
    ),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damage_at_equal_size_is_refused_once_and_made_again(tmp_path, damage):
    given = items()
    filled(tmp_path, given, views=1)
    path = next(tmp_path.glob("features-*/view-*/*.bin"))
    size = path.stat().st_size
    damage(path)
    assert path.stat().st_size == size
    store = FeatureStore(tmp_path, {"a": 1}, [item.name for item in given], 1)
    with pytest.raises(ValueError, match=r"part-00000.bin was damaged .* \(image image 0\) and is now removed"):
        store.item(SampleIndex(0, 0, 0))
    (part,) = store.missing()
    store.write(part, given)
    assert torch.equal(store.item(SampleIndex(0, 0, 0)).image, given[0].image)


@pytest.mark.parametrize("kind", ["|O", "<f8", "<U4"])
def test_a_description_of_other_records_is_refused(tmp_path, kind):
    path = filled(tmp_path, items()).folder / "store.json"
    path.write_text(path.read_text().replace("<f2", kind))
    with pytest.raises(ValueError, match=r"store\.json is damaged: delete the folder"):
        FeatureStore(tmp_path, {"a": 1}, ["x"], 1)


def test_a_disk_that_fills_up_is_named_and_leaves_no_part(tmp_path):
    given = items()
    store = FeatureStore(tmp_path, {}, [item.name for item in given], 1)
    store.describe(given[0])
    (part,) = store.missing()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(PermissionError, match=r"\(File too large\): name another place"):
            store.write(part, given)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert store.missing() == [part]
    assert not list(store.folder.rglob("*part*"))


def test_views_are_the_pipelines_own_whatever_the_seed(cache):
    data = module(cache, seed=7)
    dataset, train = view_dataset(data), data.dataset("train")
    plain = StandardAugment(data.img_size, data.ignore_index, seed=VIEW_SEED)
    looks = set()
    for image in range(5):
        for number in range(3):
            item = dataset[view(image, number, 5)]
            _, pixels, label = train.read(image)
            pixels, label = plain(pixels, label, number * 5 + image)
            assert np.array_equal(item.image.permute(1, 2, 0).numpy(), pixels)
            assert np.array_equal(item.label.numpy(), label)
            looks.add(item.image.numpy().tobytes())
    assert len(looks) == 15
    again = view_dataset(module(cache, seed=8))
    assert torch.equal(again[view(2, 1, 5)].image, dataset[view(2, 1, 5)].image)


def test_training_asks_the_cache_once_there_is_one(cache):
    data = module(cache)
    train = data.dataset("train")
    asked = []

    def cached(draw):
        asked.append(draw)
        return items(1)[0]

    train.cached = cached
    (batch, *_) = iter(data.train_dataloader())
    assert [level.shape for level in batch.maps] == [(2, 2, 3, 3), (2, 4, 1, 2)]
    assert len(asked) == 4  # two batches
    assert train.read(0).image.shape == (40, 48, 3)
    train.cached = None
    assert next(iter(data.train_dataloader())).maps == ()


def test_the_recipe_tells_other_views_and_no_others(cache, tmp_path):
    fingerprint_fields = view_recipe(module(cache))
    for options in ({"seed": 3}, {"batch_size": 4}, {"num_workers": 2}, {"eval_batch_size": 2}):
        assert view_recipe(module(cache, **options)) == fingerprint_fields, options
    flip = [A.HorizontalFlip(p=0.5), A.CenterCrop(32, 24)]
    other = [A.HorizontalFlip(p=0.4), A.CenterCrop(32, 24)]
    different = [
        view_recipe(module(cache, **options))
        for options in (
            {},
            {"img_size": (32, 32)},
            {"augment": False},
            {"scale": (64, 64)},
            {"train_transforms": flip},
            {"train_transforms": other},
        )
    ]
    moved = module(cache)
    moved.spec = type(moved.spec)(moved.spec.classes, moved.spec.palette, 255, {9: 1})
    different.append(view_recipe(moved))
    fewer = module(cache)
    fewer.exclude = ["images/train/train_000002.jpg"]
    different.append(view_recipe(fewer))
    assert len({repr(fingerprint_fields) for fingerprint_fields in different}) == 8


def test_the_recipe_notices_changed_files_and_forgives_a_moved_root(tmp_path):
    data = module(str(tmp_path / "a"))
    before = view_recipe(data)
    moved = module(str(tmp_path / "b"))
    (tmp_path / "b").mkdir()
    data.root.rename(moved.root)
    assert view_recipe(moved) == before
    mask = moved.root / "masks/train/train_000001.png"
    status = mask.stat()
    os.utime(mask, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    later = view_recipe(moved)
    assert later != before
    os.utime(mask, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert view_recipe(moved) == before
    mask.write_bytes(mask.read_bytes() + b" ")
    os.utime(mask, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert view_recipe(moved) != before


def test_transforms_without_a_name_are_refused(cache):
    def unnamed(image, **_):
        return image

    data = module(cache, train_transforms=[A.Lambda(image=unnamed), A.CenterCrop(32, 24)])
    with pytest.raises(ValueError, match="train_transforms cannot be written down"):
        view_recipe(data)

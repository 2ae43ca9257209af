"""Drawn scenes: always the same, fit to be learnt, and written in any dataset's layout."""

import multiprocessing

import numpy as np
import pytest

from segbench.data.ade20k import ADE20K_LAYOUT, ADE20K_SPEC
from segbench.data.folder import FolderDataModule, FolderLayout
from segbench.data.scene import class_names, generate_scene, scene_palette
from segbench.data.spec import DatasetSpec, default_palette
from segbench.data.synthetic import SyntheticDataModule, write_synthetic

SMALL = {"num_classes": 5, "image_size": (40, 56), "num_images": {"train": 4, "val": 2, "test": 2}}


def small(cache, **arguments):
    return SyntheticDataModule(**(SMALL | arguments), cache_dir=str(cache), img_size=(32, 32), num_workers=0)


@pytest.mark.parametrize("num_classes", [1, 2, 8, 150, 300])
def test_scenes_have_the_classes_asked_for(num_classes):
    ignore_index = 65535 if num_classes > 255 else 255
    seen = set()
    for i in range(60 if num_classes < 10 else 5):
        image, label = generate_scene(i, num_classes, (40, 56), ignore_index=ignore_index)
        assert image.shape == (40, 56, 3)
        assert image.dtype == np.uint8
        assert label.shape == (40, 56)
        seen |= set(np.unique(label).tolist())
    assert seen <= {*range(num_classes), ignore_index}
    if num_classes < 10:
        assert seen >= set(range(num_classes))


def test_the_same_arguments_draw_the_same_scene():
    for a, b in zip(
        generate_scene(3, 8, (64, 64), seed=1), generate_scene(3, 8, (64, 64), seed=1), strict=True
    ):
        assert np.array_equal(a, b)
    for other in (generate_scene(4, 8, (64, 64), seed=1), generate_scene(3, 8, (64, 64), seed=2)):
        assert not np.array_equal(other[1], generate_scene(3, 8, (64, 64), seed=1)[1])


def test_rims_without_a_class_are_thin():
    share = np.mean([(generate_scene(i, 8, (128, 128))[1] == 255).mean() for i in range(20)])
    assert 0.005 < share < 0.1


def test_colour_tells_much_of_the_class_but_not_all():
    """The nearest mean colour, learnt on some scenes, is far above chance on others, and far from perfect."""
    num_classes = 8
    train, val = (
        [generate_scene(i, num_classes, (64, 64)) for i in part] for part in (range(60), range(60, 80))
    )

    def pixels(scenes):
        image = np.concatenate([image.reshape(-1, 3) for image, _ in scenes]).astype(float)
        label = np.concatenate([label.ravel() for _, label in scenes])
        return image[label != 255], label[label != 255]

    image, label = pixels(train)
    means = np.stack([image[label == c].mean(0) for c in range(num_classes)])
    distances = np.linalg.norm(means[:, None] - means, axis=-1)[~np.eye(num_classes, dtype=bool)]
    assert distances.min() > 5
    image, label = pixels(val)
    guess = np.linalg.norm(image[:, None] - means, axis=-1).argmin(1)
    recall = np.mean([(guess[label == c] == c).mean() for c in range(num_classes)])
    assert 3 / num_classes < recall < 0.85


@pytest.mark.parametrize("num_classes", [2, 8, 29, 40, 150])
def test_names_and_colours_are_distinct(num_classes):
    assert len(set(class_names(num_classes))) == num_classes
    assert len(set(scene_palette(num_classes))) == num_classes
    assert class_names(num_classes)[:2] == ["background", "disc"]
    assert class_names(150)[100] == "class 100"


def test_a_twin_is_read_back_through_the_same_layout(tmp_path):
    spec = DatasetSpec(("a", "b", "c"), default_palette(3), remap={0: 255, 1: 0, 2: 1, 3: 2})
    layout = FolderLayout(images=("photos/{split}",), masks=("photos/{split}",), mask_suffix="_ids")
    write_synthetic(tmp_path / "twin", spec, layout, {"train": 2, "val": 1}, size=(40, 56))
    data = FolderDataModule(
        tmp_path / "twin",
        images="photos/{split}",
        masks="photos/{split}",
        mask_suffix="_ids",
        remap=dict(spec.remap),
    )
    assert data.class_names == ["a", "b", "c"]
    for number, sample in enumerate([data.dataset("train").read(0), data.dataset("train").read(1)]):
        image, label = generate_scene(number, 3, (40, 56))
        assert np.array_equal(sample.label, label)
        assert np.abs(sample.image.astype(int) - image).mean() < 8  # JPEG
    assert data.dataset("val").read(0).name == "val_000001"


def test_a_full_folder_is_not_overwritten(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is not empty: choose another folder"):
        write_synthetic(tmp_path, ADE20K_SPEC, ADE20K_LAYOUT, {"train": 1}, (32, 32))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_interrupted_write_leaves_nothing(tmp_path):
    class Failing(FolderLayout):
        def place(self, root, split, index):
            if index == 2:
                raise KeyboardInterrupt
            return super().place(root, split, index)

    with pytest.raises(KeyboardInterrupt):
        write_synthetic(tmp_path / "twin", ADE20K_SPEC, Failing(), {"train": 3}, (32, 32))
    assert list(tmp_path.iterdir()) == []


def test_scenes_are_drawn_once_and_kept(tmp_path):
    data = small(tmp_path)
    assert not data.root.exists()
    data.prepare_data()
    stamp = data.root.stat().st_mtime_ns
    again = small(tmp_path)
    again.setup("fit")
    assert again.root == data.root
    assert again.root.stat().st_mtime_ns == stamp
    assert [len(again.dataset(split)) for split in ("train", "val", "test", "predict")] == [4, 2, 2, 2]
    assert small(tmp_path, num_classes=6).root != data.root
    assert small(tmp_path, image_size=(41, 56)).root != data.root


def test_splits_hold_different_scenes(tmp_path):
    data = small(tmp_path)
    images = [data.dataset(s).read(i).image.tobytes() for s in ("train", "val", "test") for i in range(2)]
    assert len(set(images)) == 6


def test_the_cache_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGBENCH_CACHE", str(tmp_path / "elsewhere"))
    data = SyntheticDataModule(**SMALL)
    data.prepare_data()
    assert data.root.parent == tmp_path / "elsewhere"


def _prepare(cache, barrier):
    barrier.wait()
    small(cache).prepare_data()


def test_processes_that_write_at_once_do_not_disturb_each_other(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(3)
    processes = [context.Process(target=_prepare, args=(tmp_path, barrier)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert [path.name for path in tmp_path.iterdir()] == [small(tmp_path).root.name]
    assert len(small(tmp_path).dataset("train")) == 4


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("segbench.utils.files.try_lock", refuse)
    with pytest.raises(PermissionError, match=r"Read-only file system.*cache_dir or SEGBENCH_CACHE") as error:
        small(tmp_path).prepare_data()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("bad", [{"num_images": {"val": 0}}, {"num_images": {"extra": 3}}, {"num_classes": 1}])
def test_refuses_what_cannot_be_drawn(tmp_path, bad):
    with pytest.raises(ValueError, match="positive number for train, val and test"):
        small(tmp_path, **bad)

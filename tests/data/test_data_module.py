"""Batches, worker processes, shares of several devices, and the YAML."""

import itertools
import os
import random
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import cv2
import lightning as L
import numpy as np
import pytest
import tifffile
import torch
import yaml
from jsonargparse import ArgumentParser, Namespace
from PIL import Image

from segbench.data.base import SegmentationDataModule, default_num_workers
from segbench.data.folder import FolderDataModule, FolderLayout
from segbench.data.io import pixels
from segbench.data.loading.dataset import Item, collate
from segbench.data.loading.sampling import SampleIndex
from segbench.data.scene import generate_scene
from segbench.data.spec import DatasetSpec, default_palette
from segbench.data.synthetic import SyntheticDataModule, write_synthetic
from segbench.types import Batch

OVERLAYS = sorted((Path(__file__).parents[2] / "experiments" / "data").glob("*.yaml"))
SPEC = DatasetSpec(("a", "b", "c", "d"), default_palette(4))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "twin"
    write_synthetic(root, SPEC, FolderLayout(), {"train": 9, "val": 5, "test": 2}, size=(40, 56))
    return root


def module(root, **arguments):
    return FolderDataModule(root, **({"img_size": (32, 48), "batch_size": 4, "num_workers": 0} | arguments))


def same(one, other):
    return (
        one.name == other.name and torch.equal(one.image, other.image) and torch.equal(one.label, other.label)
    )


def test_training_batches_are_crops_in_bytes(root):
    batches = list(module(root).train_dataloader())
    assert len(batches) == len(module(root).train_dataloader()) == 2
    for batch in batches:
        assert isinstance(batch, Batch)
        assert batch.image.shape == (4, 3, 32, 48)
        assert batch.label.shape == (4, 32, 48)
        assert batch.image.dtype == batch.label.dtype == torch.uint8
        assert batch.image.is_contiguous()


def test_evaluation_shows_images_as_they_are(root):
    data = module(root)
    for i, batch in enumerate(data.val_dataloader()):
        sample = data.dataset("val").read(i)
        assert batch.name == (sample.name,)
        assert np.array_equal(batch.image[0].permute(1, 2, 0), sample.image)
        assert np.array_equal(batch.label[0], sample.label)
    assert i == 4


def test_reading_is_never_augmented(root):
    dataset = module(root).dataset("train")
    assert dataset.read(0).image.shape == (40, 56, 3)
    assert dataset[0].image.shape == (3, 32, 48)


def test_an_image_looks_different_each_time_it_is_drawn(root):
    dataset = module(root).dataset("train")
    looks = {dataset[SampleIndex(0, number)].image.numpy().tobytes() for number in range(20)}
    assert len(looks) == 20
    assert torch.equal(dataset[SampleIndex(0, 7)].image, dataset[SampleIndex(0, 7)].image)


@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize("loader", ["train_dataloader", "val_dataloader"])
def test_workers_change_nothing(root, loader, num_workers):
    alone = getattr(module(root), loader)()
    together = getattr(module(root, num_workers=num_workers), loader)()
    assert all(same(a, b) for a, b in zip(alone, together, strict=True))


def test_loading_draws_no_global_random_number(root):
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    data = module(root)
    list(data.train_dataloader())
    list(data.val_dataloader())
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])  # noqa: NPY002
    assert states[2] == random.getstate()


def test_global_seeds_do_not_matter(root):
    torch.manual_seed(1)
    random.seed(1)
    one = next(iter(module(root).train_dataloader()))
    torch.manual_seed(2)
    random.seed(2)
    assert same(one, next(iter(module(root).train_dataloader())))
    assert not same(one, next(iter(module(root, seed=5).train_dataloader())))


def on(rank, world_size, data):
    progress = SimpleNamespace(total=SimpleNamespace(processed=1))
    fit_loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress))
    data.trainer = SimpleNamespace(
        global_rank=rank,
        world_size=world_size,
        num_devices=world_size,
        fit_loop=fit_loop,
        overfit_batches=0.0,
    )
    return data


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_each_image_is_evaluated_once_by_one_device(root, world_size):
    names = [
        [name for batch in on(rank, world_size, module(root)).val_dataloader() for name in batch.name]
        for rank in range(world_size)
    ]
    everything = [pair.name for pair in module(root).dataset("val").pairs]
    assert sorted(itertools.chain(*names)) == everything


def test_two_devices_train_on_what_one_would(root):
    alone = list(on(0, 1, module(root, batch_size=4)).train_dataloader())
    ranks = [
        list(on(rank, 2, module(root, batch_size=2, num_workers=rank)).train_dataloader()) for rank in range(2)
    ]
    for rank, batches in enumerate(ranks):
        for batch, whole in zip(batches, alone, strict=True):
            assert batch.name == whole.name[rank::2]
            assert torch.equal(batch.image, whole.image[rank::2])
            assert torch.equal(batch.label, whole.label[rank::2])


def test_sizes_that_do_not_fit_into_a_batch_are_named(tmp_path):
    layout = FolderLayout()
    write_synthetic(tmp_path / "twin", SPEC, layout, {"val": 2}, size=(40, 56))
    image, label = generate_scene(0, 4, (30, 20))
    pair = layout.place(tmp_path / "twin", "val", 2)
    cv2.imwrite(str(pair.image), image)
    cv2.imwrite(str(pair.label), label.astype(np.uint8))
    with pytest.raises(
        ValueError, match=r"val_000001 \(56x40\) and val_000002 \(20x30\) .*eval_batch_size=1"
    ) as error:
        list(module(tmp_path / "twin", eval_batch_size=2).val_dataloader())
    assert "\n" not in str(error.value)
    assert len(list(module(tmp_path / "twin").val_dataloader())) == 2


def test_more_than_255_classes_travel_as_int64(tmp_path):
    names = [f"c{i}" for i in range(300)]
    spec = DatasetSpec(tuple(names), default_palette(300), ignore_index=65535)
    write_synthetic(tmp_path / "twin", spec, FolderLayout(), {"train": 3, "val": 1}, size=(40, 56))
    data = module(tmp_path / "twin", ignore_index=65535, batch_size=2)
    batch = next(iter(data.train_dataloader()))
    assert batch.label.dtype == torch.int64
    assert np.array_equal(
        data.dataset("val").read(0).label, generate_scene(3, 300, (40, 56), ignore_index=65535)[1]
    )


def test_collates_to_one_batch():
    items = [Item(torch.full((3, 2, 2), i), torch.full((2, 2), i), str(i)) for i in range(3)]
    batch = collate(items)
    assert batch.name == ("0", "1", "2")
    assert batch.image[:, 0, 0, 0].tolist() == batch.label[:, 0, 0].tolist() == [0, 1, 2]


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec:FutureWarning")
def test_lightning_tests_and_predicts_every_image_once(root):
    seen = []

    class Collect(L.LightningModule):
        def test_step(self, batch, batch_idx):
            seen.extend(batch.name)

        def predict_step(self, batch, batch_idx):
            return batch.name

    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        use_distributed_sampler=False,
        enable_checkpointing=False,
    )
    data = module(root, splits={"predict": "val"})
    trainer.test(Collect(), data, verbose=False)
    assert seen == ["test_000001", "test_000002"]
    predicted = trainer.predict(Collect(), data)
    assert [name for (name,) in predicted] == [f"val_{i:06d}" for i in range(1, 6)]


def parse(*args):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_subclass_arguments(SegmentationDataModule, "data")
    parsed = parser.parse_args(list(args))
    assert isinstance(parsed, Namespace)
    return parser.instantiate(parsed).data


def overlay(path, folder):
    """Copies the part that concerns this room; a whole experiment joins the overlay with a model."""
    copy = folder / "overlay.yaml"
    copy.write_text(yaml.safe_dump({"data": yaml.safe_load(path.read_text())["data"]}))
    return f"--config={copy}"


@pytest.mark.parametrize("path", OVERLAYS, ids=lambda path: path.stem)
def test_overlays_build(path, tmp_path, monkeypatch):
    monkeypatch.setenv("SEGBENCH_CACHE", str(tmp_path))
    (tmp_path / "classes.txt").write_text("a\nb\n")
    root = [] if path.stem.startswith("synthetic") else [f"--data.init_args.root={tmp_path}"]
    data = parse(overlay(path, tmp_path), *root)
    assert data.num_classes == len(data.class_names) == len(data.palette) >= 2


def test_camvid_reads_both_arrangements(tmp_path):
    camvid = overlay(next(path for path in OVERLAYS if path.stem == "camvid"), tmp_path)
    spec = DatasetSpec(tuple("abcdefghijk"), default_palette(11), remap={11: 255})
    for images, masks in (("images/{split}", "masks/{split}"), ("{split}", "{split}annot")):
        root = tmp_path / masks[:3]
        write_synthetic(root, spec, FolderLayout((images,), (masks,)), {"train": 1}, size=(36, 48))
        data = parse(camvid, f"--data.init_args.root={root}", "--data.init_args.num_workers=0")
        assert np.array_equal(data.dataset("train").read(0).label, generate_scene(0, 11, (36, 48))[1])
        assert data.class_names[-1] == "bicyclist"


def test_transforms_and_remap_come_from_yaml(root):
    data = parse(
        "--data=segbench.data.folder.FolderDataModule",
        f"--data.init_args.root={root}",
        "--data.init_args.remap",
        "{3: 255}",
        "--data.init_args.train_transforms",
        "[{class_path: albumentations.RandomCrop, init_args: {height: 16, width: 24}},"
        " {class_path: segbench.data.transforms.PhotoMetricDistortion, init_args: {hue: 5}}]",
    )
    item = data.dataset("train")[0]
    assert item.image.shape == (3, 16, 24)
    assert data.augment.compose[1].hue == 5
    assert 3 not in np.unique(data.dataset("val").read(0).label)


def test_the_default_number_of_workers_leaves_room(monkeypatch):
    for processors, devices, expected in ((1, 1, 1), (4, 1, 3), (64, 1, 8), (64, 8, 7), (8, 8, 1)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=processors: set(range(n)), raising=False)
        assert default_num_workers(devices) == expected


def test_a_slurm_task_shares_its_processors_with_no_other(monkeypatch):
    class Trainer:
        num_devices = 4

    data = SyntheticDataModule()
    data.trainer = Trainer()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    assert data._workers() == 1
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "8")  # `srun` binds each task to 8 of the node's
    assert data._workers() == 7


def test_importing_asks_no_server():
    code = "import segbench.data.transforms, os; assert os.environ['NO_ALBUMENTATIONS_UPDATE'] == '1'"
    environment = {key: value for key, value in os.environ.items() if key != "NO_ALBUMENTATIONS_UPDATE"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_a_dataset_is_a_spec_and_a_layout(root):
    class Mine(SegmentationDataModule):
        spec = SPEC
        layout = FolderLayout()

    data = Mine(root, img_size=(32, 48), batch_size=4, num_workers=0, remap={3: 255})
    assert Mine.spec.remap == {}
    assert next(iter(data.train_dataloader())).image.shape == (4, 3, 32, 48)
    assert 3 not in np.unique(data.dataset("val").read(0).label)
    assert isinstance(SyntheticDataModule(), SegmentationDataModule)


def test_what_all_files_have_in_common_is_said_before_the_first_step(tmp_path, monkeypatch):
    for part in ("images", "masks"):
        for split in ("train", "val"):
            (tmp_path / part / split).mkdir(parents=True)
    monkeypatch.setattr(pixels, "_warned", set())
    values = np.arange(1024, dtype=np.uint16).reshape(32, 32) * 3
    for split in ("train", "val"):
        for i in range(2):
            Image.fromarray(values).save(tmp_path / f"images/{split}/{i}.png")
            Image.fromarray(np.eye(32, dtype=np.uint8)).save(tmp_path / f"masks/{split}/{i}.png")
    data = FolderDataModule(tmp_path, classes=["a", "b"], img_size=(32, 32), batch_size=2, num_workers=0)
    with pytest.warns(UserWarning, match=r"0\.png has 16-bit values of at most 3069 of 65535.*12 bits"):
        data.setup("fit")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once is enough
        next(iter(data.train_dataloader()))
    (tmp_path / "images/train/0.png").unlink()
    tifffile.imwrite(tmp_path / "images/train/0.tif", np.zeros((32, 32, 5), np.uint8), planarconfig="contig")
    data = FolderDataModule(tmp_path, classes=["a", "b"], img_size=(32, 32), batch_size=2, num_workers=0)
    with pytest.raises(ValueError, match=r"0\.tif has 5 bands"):
        data.setup("fit")

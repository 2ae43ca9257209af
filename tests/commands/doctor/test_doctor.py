"""Planted faults: each is found, called by its name, and gone with the YAML that the doctor writes."""

import errno
import io
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import yaml
from PIL import Image

from segbench.__main__ import main
from segbench.commands.doctor.diagnose import visit
from segbench.data.cityscapes import CityscapesLayout
from segbench.data.cityscapes_classes import CITYSCAPES_SPEC
from segbench.data.deepfashion import DEEPFASHION_SPEC, DeepFashion, DeepFashionLayout
from segbench.data.folder import FolderDataModule
from segbench.data.folder_layout import FolderLayout
from segbench.data.spec import Layout
from segbench.data.synthetic import write_synthetic

CLASSES = ["sky", "road", "car"]
COUNTS = {"train": 5, "val": 3, "test": 2}
SIZE = (16, 24)  # height, width


class Dataset:
    """A sound dataset on disk, and what a reader should see in it."""

    def __init__(self, root: Path, classes: list[str] = CLASSES) -> None:
        self.root = root
        self.options: dict = {"root": str(root), "classes": classes, "img_size": [16, 16], "num_workers": 0}
        self.truth: dict[str, np.ndarray] = {}
        rng = np.random.default_rng(0)
        for split, number in COUNTS.items():
            for i in range(number):
                image = rng.integers(0, 256, (*SIZE, 3), np.uint8)
                mask = rng.integers(0, len(classes), SIZE, np.uint8)
                mask.flat[: len(classes)] = range(len(classes))
                self.save(self.image(split, i), image)
                self.save(self.mask(split, i), mask)
                self.truth[f"{split}/{i}"] = mask

    def image(self, split: str, i: int) -> Path:
        return self.root / f"images/{split}/{i}.png"

    def mask(self, split: str, i: int) -> Path:
        return self.root / f"masks/{split}/{i}.png"

    def masks(self) -> list[tuple[Path, np.ndarray]]:
        return [(self.root / f"masks/{name}.png", mask) for name, mask in self.truth.items()]

    @staticmethod
    def save(path: Path, array: np.ndarray) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)

    def write(self, convert) -> None:
        """Stores all masks in another way; their truth stays."""
        for path, mask in self.masks():
            self.save(path, np.asarray(convert(mask)))

    def gone(self, *names: str) -> None:
        """Notes that images cannot be saved."""
        for name in names:
            del self.truth[name]

    def yaml(self, path: Path) -> Path:
        data = {"class_path": "segbench.data.folder.FolderDataModule", "init_args": self.options}
        model = {"class_path": "segbench.tasks.semantic.SemanticTask"}  # not the doctor's business
        path.write_text(yaml.safe_dump({"data": data, "model": model, "trainer": {"max_steps": 3}}))
        return path


def missing_mask(d):
    d.mask("train", 1).unlink()
    d.gone("train/1")


def other_suffix(d):
    for path, _ in d.masks():
        path.rename(path.with_name(f"{path.stem}_segm.png"))


def other_prefix(d):
    for path, _ in d.masks():
        path.rename(path.with_name(f"mask_{path.name}"))


def prefix_and_ending(d):
    """As labelling tools export: the image's whole file name within the mask's."""
    for path, _ in d.masks():
        path.rename(path.with_name(f"gt-{path.stem}.jpg_labels.png"))


def drawn_and_renamed(d):
    """All in one folder, splits to be drawn, masks of another ending."""
    no_splits(d)
    d.options["splits"] = {"val": 0.3, "test": 0.2}
    for path in sorted((d.root / "masks").iterdir()):
        path.rename(path.with_name(f"{path.stem}_mask.png"))


def beside(d):
    for path, _ in d.masks():
        path.rename(d.root / "images" / path.parent.name / f"{path.stem}_mask.png")


def split_names(d):
    for folder in ("images", "masks"):
        (d.root / folder / "train").rename(d.root / folder / "training")
        (d.root / folder / "val").rename(d.root / folder / "valid")


def other_folder(d):
    (d.root / "masks").rename(d.root / "SegmentationClass")


def other_size(d):
    d.save(d.mask("val", 2), np.zeros((8, 12), np.uint8))
    d.gone("val/2")


def exif_turned(d):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = d.root / "images/train/2.jpg"
    Image.open(d.image("train", 2)).save(path, exif=exif)
    d.image("train", 2).unlink()
    d.gone("train/2")


def damaged_image(d):
    data = d.image("train", 3).read_bytes()
    d.image("train", 3).write_bytes(data[: len(data) // 2])
    d.gone("train/3")


def empty_image_file(d):
    d.image("val", 0).write_bytes(b"")
    d.gone("val/0")


def damaged_mask(d):
    data = d.mask("train", 3).read_bytes()
    d.mask("train", 3).write_bytes(data[: len(data) // 2])
    d.gone("train/3")


def jpeg_mask(d):
    Image.open(d.mask("train", 0)).save(d.mask("train", 0).with_suffix(".jpg"))
    d.mask("train", 0).unlink()
    d.gone("train/0")


def float_mask(d):
    path = d.mask("train", 0)
    Image.fromarray(d.truth["train/0"].astype(np.float32) / 2).save(path.with_suffix(".tif"))
    path.unlink()
    d.gone("train/0")


def binary(d):
    d.options["classes"] = ["back", "front"]
    for name, mask in d.truth.items():
        d.truth[name] = np.minimum(mask, 1)
    d.write(lambda mask: mask * np.uint8(255))


def binary_128(d):
    binary(d)
    d.write(lambda mask: mask * np.uint8(128))


def one_based(d):
    d.write(lambda mask: mask + 1)


def void_last(d):
    d.truth["train/0"][:4] = 255
    d.write(lambda mask: np.where(mask == 255, 3, mask).astype(np.uint8))


def spread(d):
    d.write(lambda mask: np.array([0, 128, 255], np.uint8)[mask])


def out_of_range(d):
    for name in ("train/0", "val/1"):
        d.truth[name][2:4] = 255
    d.write(lambda mask: np.where(mask == 255, 77, mask).astype(np.uint8))


def ignore_255(d):
    d.options["ignore_index"] = 200
    d.truth["test/0"][:4] = 200
    d.write(lambda mask: np.where(mask == 200, 255, mask).astype(np.uint8))


def palette_order(d):
    d.options["indexed_masks"] = "ids"  # as in data modules that know no colours
    d.options["palette"] = [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    for path, mask in d.masks():
        image = Image.fromarray(np.array([2, 0, 1], np.uint8)[mask])
        image.putpalette([0, 255, 0, 0, 0, 255, 255, 0, 0])
        image.save(path)


def label_ids(d):
    d.__init__(d.root, list(CITYSCAPES_SPEC.classes))
    d.write(CITYSCAPES_SPEC.encode)


def transparent_mask(d):
    """Painted, and in one mask seen through: the colour below would be a class."""
    d.options["palette"] = [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    colors = np.array(d.options["palette"], np.uint8)
    d.write(lambda mask: np.dstack([colors[mask], np.full(SIZE, 255, np.uint8)]))
    d.save(d.mask("val", 1), np.dstack([colors[d.truth["val/1"]], np.full(SIZE, 9, np.uint8)]))
    d.gone("val/1")


def dangling_link(d):
    d.image("train", 2).unlink()
    d.image("train", 2).symlink_to(d.root / "nowhere.png")
    d.gone("train/2")


def dangling_mask(d):
    d.mask("val", 1).unlink()
    d.mask("val", 1).symlink_to(d.root / "nowhere.png")
    d.gone("val/1")


def leak(d):
    """The same pixels in another file."""
    Image.open(d.image("train", 1)).save(d.image("val", 1), compress_level=0)
    d.gone("train/1")


def empty_mask(d):
    d.save(d.mask("train", 4), np.full(SIZE, 255, np.uint8))
    d.gone("train/4")


def uneven_batches(d):
    d.options["eval_batch_size"] = 2
    d.save(d.image("val", 1), np.full((20, 20, 3), 9, np.uint8))
    d.truth["val/1"] = np.arange(400, dtype=np.uint8).reshape(20, 20) % 3
    d.save(d.mask("val", 1), d.truth["val/1"])


def rgb_mask(d):
    d.save(d.mask("train", 2), np.zeros((*SIZE, 3), np.uint8) + np.uint8([7, 9, 200]))
    d.gone("train/2")


def grey_rgb(d):
    """Ids, but saved with three channels; some pixels without a class."""
    d.truth["train/0"][:4] = 255
    d.write(lambda mask: np.repeat(mask[..., None], 3, axis=2))


def grey_alpha(d):
    d.write(lambda mask: Image.merge("LA", [Image.fromarray(mask), Image.new("L", mask.shape[::-1], 255)]))


def grey_rgb_of_a_palette(d):
    """The same where somebody gave the colours of the classes: grey is not one of them."""
    d.options["palette"] = [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    grey_rgb(d)


def twelve_colors(d):
    d.write(
        lambda mask: (
            (np.arange(mask.size).reshape(mask.shape) % 12)[..., None].astype(np.uint8) + np.uint8([1, 2, 3])
        )
    )


def binary_rgb(d):
    binary(d)
    d.write(lambda mask: np.repeat(mask[..., None] * np.uint8(255), 3, axis=2))


def void_color(d):
    d.options["palette"] = [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    for name in ("train/0", "val/1"):
        d.truth[name][:4] = 255
    d.write(lambda mask: np.array([*d.options["palette"], *[[1, 2, 3]] * 253], np.uint8)[mask])


def no_splits(d):
    """All files in one folder; which image goes to which split is not the doctor's to say."""
    for folder in ("images", "masks"):
        for split in COUNTS:
            for path in sorted((d.root / folder / split).iterdir()):
                path.rename(d.root / folder / f"{split}{path.name}")
            (d.root / folder / split).rmdir()


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 8
    path.write_bytes(data)


def flipped_bit(d):
    flip_a_bit(d.image("train", 3))
    d.gone("train/3")


def flipped_bit_of_a_mask(d):
    flip_a_bit(d.mask("train", 3))
    d.gone("train/3")


def jpeg_without_middle(d):
    noise = np.random.default_rng(1).integers(0, 256, (*SIZE, 3), np.uint8)
    path = d.image("train", 3)
    path.unlink()
    Image.fromarray(noise).save(path.with_suffix(".jpg"), quality=95)
    data = path.with_suffix(".jpg").read_bytes()
    path.with_suffix(".jpg").write_bytes(data[: len(data) // 2] + data[-200:])
    d.gone("train/3")


def five_bands(d):
    d.image("train", 3).unlink()
    path = d.image("train", 3).with_suffix(".tif")
    options = {"photometric": "minisblack", "planarconfig": "contig", "metadata": None}
    tifffile.imwrite(path, np.zeros((*SIZE, 5), np.uint16), **options)
    d.gone("train/3")


def lossy_tiff_mask(d):
    d.mask("train", 3).unlink()
    path = d.mask("train", 3).with_suffix(".tif")
    tifffile.imwrite(path, d.truth["train/3"], photometric="minisblack", compression="jpeg", metadata=None)
    d.gone("train/3")


# Fault, its name, a file that must be shown (or none).
PLANTED = [
    (missing_mask, "missing mask", "images/train/1.png"),
    (other_suffix, "names differ", "images/train/0.png"),
    (other_prefix, "names differ", "images/train/0.png"),
    (prefix_and_ending, "names differ", "images/train/0.png"),
    (drawn_and_renamed, "names differ", None),
    (beside, "names differ", "images/train/0.png"),
    (split_names, "split of another name", None),
    (other_folder, "masks elsewhere", None),
    (other_size, "sizes differ", "masks/val/2.png"),
    (exif_turned, "EXIF rotation", "images/train/2.jpg"),
    (damaged_image, "damaged image", "images/train/3.png"),
    (empty_image_file, "damaged image", "images/val/0.png"),
    (damaged_mask, "damaged mask", "masks/train/3.png"),
    (flipped_bit, "damaged image", "images/train/3.png"),
    (flipped_bit_of_a_mask, "damaged mask", "masks/train/3.png"),
    (jpeg_without_middle, "damaged image", "images/train/3.jpg"),
    (five_bands, "unreadable", "images/train/3.tif"),
    (lossy_tiff_mask, "unreadable", "images/train/3.png"),
    (jpeg_mask, "JPEG mask", "masks/train/0.jpg"),
    (float_mask, "RGB masks", "masks/train/0.tif"),
    (rgb_mask, "RGB masks", "masks/train/2.png"),
    (transparent_mask, "transparent mask", "masks/val/1.png"),
    (dangling_link, "unreadable", "images/train/2.png"),
    (dangling_mask, "unreadable", "images/val/1.png"),
    (binary, "0/255 masks", "masks/train/0.png"),
    (binary_rgb, "0/255 masks", "masks/train/0.png"),
    (binary_128, "0/128 masks", "masks/train/0.png"),
    (one_based, "ids 1..N", "masks/train/0.png"),
    (spread, "spread ids", "masks/train/0.png"),
    (ignore_255, "255 as ignore", "masks/test/0.png"),
    (palette_order, "palette order", "masks/train/0.png"),
    (label_ids, "labelIds for trainIds", "masks/train/0.png"),
    (leak, "images in two splits", "images/train/1.png"),
    (empty_mask, "empty masks", "masks/train/4.png"),
    (uneven_batches, "uneven batches", None),
    (no_splits, "no splits", None),
]
WARNINGS = {"empty masks"}


def doctor(capsys, *args) -> tuple[int, str]:
    """Runs the command; returns its exit status and what it printed."""
    try:
        main(["doctor", *map(str, args), "--num_workers", "1"])
        status = 0
    except SystemExit as stop:
        status = stop.code
    return status, capsys.readouterr().out


def read_all(*configs: Path) -> dict[str, np.ndarray]:
    """Reads all labels as training does, from configurations merged as `segbench fit` merges them."""
    from jsonargparse import ArgumentParser

    from segbench.data.base import SegmentationDataModule

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_argument("--model", type=dict)
    parser.add_argument("--trainer", type=dict)
    parser.add_subclass_arguments(SegmentationDataModule, "data")
    config = parser.parse_args([word for path in configs for word in ("--config", str(path))])
    data = parser.instantiate(config).data
    labels = {}
    for split in COUNTS:
        dataset = data.dataset(split)
        labels |= {f"{split}/{pair.name}": dataset.read(i).label for i, pair in enumerate(dataset.pairs)}
    return labels


@pytest.fixture
def sound(tmp_path):
    return Dataset(tmp_path / "data")


@pytest.mark.parametrize(("plant", "name", "file"), PLANTED, ids=lambda value: getattr(value, "__name__", ""))
def test_a_planted_fault_is_found_named_and_fixed(sound, tmp_path, capsys, plant, name, file):
    plant(sound)
    config, fix = sound.yaml(tmp_path / "mine.yaml"), tmp_path / "fix.yaml"
    status, said = doctor(capsys, "--config", config, "--fix", fix)
    assert status == (0 if name in WARNINGS else 1), said
    level = "warning" if name in WARNINGS else "error"
    found = [line for line in said.splitlines() if line.startswith(("error", "warning"))]
    assert {line.split(":")[0] for line in found} == {f"{level}  {name}"}, said
    assert file is None or f"    {file}\n" in said
    # What is printed beside the finding is what is written.
    printed = said.split("fixed by\n")[1].split("\n\n")[0]
    lines = [line[4:] for line in printed.splitlines() if line.startswith("    ")]
    if len(found) == 1:
        assert yaml.safe_load("\n".join(lines)) == yaml.safe_load(fix.read_text())

    status, said = doctor(capsys, "--config", config, "--config", fix)
    assert status == 0, said
    assert name not in said
    labels = read_all(config, fix)
    if plant in {no_splits, drawn_and_renamed}:
        assert len(labels) == len(sound.truth)
        return
    assert labels.keys() == sound.truth.keys()
    for key, label in labels.items():
        np.testing.assert_array_equal(label, sound.truth[key], err_msg=key)


@pytest.mark.parametrize("plant", [grey_rgb, grey_alpha])
def test_ids_in_equal_channels_are_read(sound, tmp_path, capsys, plant):
    plant(sound)
    config = sound.yaml(tmp_path / "mine.yaml")
    status, said = doctor(capsys, "--config", config)
    assert status == 0, said
    for key, label in read_all(config).items():
        np.testing.assert_array_equal(label, sound.truth[key], err_msg=key)


def test_images_and_renamed_masks_in_one_folder_each_need_both_options(sound, tmp_path, capsys):
    drawn_and_renamed(sound)
    del sound.options["splits"]
    config, fix = sound.yaml(tmp_path / "mine.yaml"), tmp_path / "fix.yaml"
    doctor(capsys, "--config", config, "--fix", fix)
    options = yaml.safe_load(fix.read_text())["data"]["init_args"]
    assert options == {"splits": {"val": 0.1, "test": 0.1}, "mask_suffix": "_mask"}
    assert doctor(capsys, "--config", config, "--config", fix)[0] == 0


def test_images_without_masks_are_no_pairs(sound, tmp_path, capsys):
    """Images that count up are not masks of each other."""
    shutil.rmtree(sound.root / "masks")
    for path in sorted((sound.root / "images").rglob("*.png")):
        path.rename(path.with_name(f"img_00{path.name}"))
    _, said = doctor(capsys, "--config", sound.yaml(tmp_path / "mine.yaml"))
    assert "error  missing mask" in said
    assert "names differ" not in said


def test_a_sound_dataset_is_called_sound(sound, tmp_path, capsys):
    status, said = doctor(
        capsys, "--config", sound.yaml(tmp_path / "mine.yaml"), "--fix", tmp_path / "fix.yaml"
    )
    assert status == 0
    assert "10 images read: 0 errors, 0 warnings, 0 notes" in said
    assert not (tmp_path / "fix.yaml").exists()


def test_class_shares_and_sizes_are_counted(sound, tmp_path, capsys):
    _, said = doctor(capsys, "--config", sound.yaml(tmp_path / "mine.yaml"), "--out", tmp_path / "pictures")
    rows = {words[1]: words[2:5] for line in said.splitlines() if len(words := line.split()) > 4}
    for label, name in enumerate(CLASSES):
        for column, split in enumerate(COUNTS):
            masks = [mask for key, mask in sound.truth.items() if key.startswith(split)]
            assert rows[name][column] == f"{np.mean([mask == label for mask in masks]):.2%}"
    assert ["24x16", "10"] in [line.split()[:2] for line in said.splitlines()]
    for file in ("classes.png", "sizes.png"):
        picture = np.asarray(Image.open(tmp_path / "pictures" / file))
        assert picture.shape[1:] == (900, 3)
        assert (picture != 255).any(axis=2).mean() > 0.02  # there are bars


def test_root_on_the_command_line_wins(sound, tmp_path, capsys):
    sound.options["root"] = "/nowhere"
    config = sound.yaml(tmp_path / "mine.yaml")
    assert doctor(capsys, "--config", config, "--data.init_args.root", sound.root)[0] == 0
    assert doctor(capsys, "--config", config)[0] == 2


def without_car(d, split):
    for path, mask in d.masks():
        if split in path.parts:
            d.save(path, np.minimum(mask, 1))


def transparent(d):
    d.save(d.image("train", 0), np.zeros((*SIZE, 4), np.uint8))


def deep(d):
    d.save(d.image("train", 0), np.full(SIZE, 40000, np.uint16))


def deep_grey(d):
    d.save(d.image("train", 0), np.full(SIZE, 4000, np.uint16))


def deep_color(d):
    cv2.imwrite(str(d.image("train", 0)), np.full((*SIZE, 3), 4000, np.uint16))  # Pillow shows it as 8 bits


def repeated(d):
    shutil.copy(d.image("train", 0), d.image("train", 3))


def lonely_mask(d):
    d.save(d.mask("train", 7), np.zeros(SIZE, np.uint8))


def rim(d):
    d.save(d.mask("train", 0), np.where(d.truth["train/0"] == 2, 255, d.truth["train/0"]).astype(np.uint8))


def one_class(d):
    d.write(np.zeros_like)


def grey_values(d):
    d.write(lambda mask: np.arange(mask.size, dtype=np.uint8).reshape(mask.shape))


def no_val(d):
    shutil.rmtree(d.root / "images/val")


def one_folder(d):
    d.options.update(images="images/train", masks="masks/train")


def all_jpeg(d):
    for path, _ in d.masks():
        path.rename(path.with_suffix(".jpg"))


def twice(d):
    shutil.copy(d.image("val", 0), d.root / "images/val/0.bmp")


@pytest.mark.parametrize(
    ("plant", "name", "text"),
    [
        (transparent, "note  alpha channel", "images/train/0.png"),
        (deep, "note  16-bit images", "images/train/0.png"),
        (deep_grey, "warning  dark images", "images/train/0.png"),
        (deep_color, "warning  dark images", "images/train/0.png"),
        (repeated, "note  repeated images", "images/train/3.png"),
        (lonely_mask, "warning  masks without image", "masks/train/7.png"),
        (
            lambda d: without_car(d, "train"),
            "warning  absent classes",
            "1 of 3 classes never appear in train: car",
        ),
        (lambda d: without_car(d, "val"), "note  absent classes", "1 of 3 classes never appear in val: car"),
        (rim, "note  ignored pixels", "masks/train/0.png"),
        (one_class, "error  a single class", "'sky'"),
        (grey_values, "error  grey values", "256 different numbers"),
        (no_val, "error  missing split", "images/val"),
        (one_folder, "error  images in two splits", "5 of 5 images of train are in val"),
        (all_jpeg, "error  JPEG mask", "does not undo it"),
        (twice, "error  unusable split", "0.bmp"),
    ],
)
def test_faults_that_no_option_fixes_are_named_as_well(sound, tmp_path, capsys, plant, name, text):
    plant(sound)
    status, said = doctor(capsys, "--config", sound.yaml(tmp_path / "mine.yaml"))
    assert f"{name}: " in said
    assert text in said
    assert status == name.startswith("error")


def half_white(d):
    binary(d)
    for path, mask in d.masks()[::2]:
        d.save(path, mask)


def nameless_back(d):
    binary(d)
    d.options["classes"] = ["crack"]


def jpeg_called_png(d):
    for path, _ in d.masks():
        Image.open(path).save(path, format="JPEG")


def one_based_but_one(d):
    one_based(d)
    d.save(d.mask("val", 0), np.where(d.truth["val/0"] == 0, 77, d.truth["val/0"] + 1).astype(np.uint8))


def luminances(d):
    d.options["palette"] = [[200, 0, 0], [0, 200, 0], [0, 0, 200]]
    colors = np.array(d.options["palette"], np.uint8)
    d.write(lambda mask: Image.fromarray(colors[mask]).convert("L"))


def unknown_color(d):
    """A class whose colour in the files is not that of its list."""
    d.options["palette"] = [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    colors = np.array([[255, 0, 0], [0, 255, 0], [9, 8, 7]], np.uint8)
    d.write(lambda mask: colors[mask])


def half_painted(d):
    """Palettes in another order: a remap would fix them, and spoil the painted masks."""
    palette_order(d)
    colors = np.array(d.options["palette"], np.uint8)
    for path, mask in d.masks()[::2]:
        d.save(path, colors[mask])


def other_table(d):
    """Ids 1..3 for three classes, whose table has another id for the last."""
    d.options["classes"] = ["1 sky", "2 road", "4 car"]
    one_based(d)


def merged_from_one(d):
    one_based(d)
    d.options["merge"] = {"way": ["sky", "road"]}


def table_from_one(d):
    """Not evenly spaced greys, though 0, 1, 2 are that as well."""
    d.options["classes"] = ["1 sky", "2 road", "3 car"]


def negative(d):
    d.mask("train", 0).unlink()
    mask = d.truth["train/0"].astype(np.int32)
    mask[0] = -1
    Image.fromarray(mask).save(d.mask("train", 0).with_suffix(".tif"))


def empty_train(d):
    no_splits(d)
    (d.root / "images/train").mkdir()


@pytest.mark.parametrize(
    ("plant", "name", "text"),
    [
        (void_last, "ids 0..N", "{3: 255}"),
        (out_of_range, "ids out of range", "masks/val/1.png"),
        (one_based_but_one, "ids out of range", "without 77 these are ids 1..3"),
        (luminances, "expanded palette", "such as 23 for 'car'"),
        (half_white, "mixed ids", "5 of 10 masks"),
        (nameless_back, "one class", "name two classes (background, crack) and remap {255: 1}"),
        (jpeg_called_png, "JPEG mask", "10 of 10 images"),
        (grey_rgb_of_a_palette, "RGB masks", "getchannel(0)"),
        (twelve_colors, "RGB masks", "'1 2 3 class_0', '2 3 4 class_1'"),
        (
            twelve_colors,
            "RGB masks",
            "(1 2 3, 2 3 4, 3 4 5, 4 5 6, 5 6 7, 6 7 8, 7 8 9, 8 9 10, 9 10 11, 10 11",
        ),
        (void_color, "RGB masks", "let ignore be ['1 2 3']"),
        (unknown_color, "RGB masks", "'car' (0 0 255) never occurs, but 9 8 7 does"),
        (half_painted, "palette order", "not the other 5 masks"),
        (other_table, "ids out of range", "masks hold 3, but the 3 classes have ids 1, 2, 4"),
        (merged_from_one, "ids out of range", "masks hold 3, but the 2 classes have ids 0, 1, 2"),
        (table_from_one, "ids out of range", "masks hold 0, but the 3 classes have ids 1, 2, 3"),
        (negative, "ids out of range", "let remap be {"),
        (empty_train, "missing split", ""),
    ],
)
def test_what_files_leave_open_is_said_in_words_alone(sound, tmp_path, capsys, plant, name, text):
    plant(sound)
    fix = tmp_path / "fix.yaml"
    status, said = doctor(capsys, "--config", sound.yaml(tmp_path / "mine.yaml"), "--fix", fix)
    assert status == 1
    assert f"error  {name}: " in said, said
    assert text in said, said
    assert "fixed by" not in said
    assert not fix.exists()


def test_masks_that_remap_reads_the_other_way_round_are_no_fault(sound, tmp_path, capsys):
    binary(sound)
    sound.options["remap"] = {0: 1, 255: 0}
    assert doctor(capsys, "--config", sound.yaml(tmp_path / "mine.yaml"))[0] == 0


def test_options_of_the_command_line_that_would_beat_the_overlay_are_named(sound, tmp_path, capsys):
    missing_mask(sound)
    config, fix = sound.yaml(tmp_path / "mine.yaml"), tmp_path / "fix.yaml"
    typed = "--data.init_args.exclude=[images/train/0.png]"
    _, said = doctor(capsys, "--config", config, "--fix", fix, typed, "--data.init_args.seed", "1")
    assert "leave --data.init_args.exclude out of the command line" in said
    assert doctor(capsys, "--config", config, "--config", fix)[0] == 0
    assert doctor(capsys, "--config", config, "--config", fix, typed)[0] == 1
    _, said = doctor(capsys, "--config", config, "--fix", tmp_path / "b.yaml", "--data.init_args.seed", "1")
    assert "command line" not in said


def test_advice_that_stands_alone_begins_with_it(sound, tmp_path, capsys):
    for path, _ in sound.masks():
        path.unlink()
    _, said = doctor(capsys, "--config", sound.yaml(tmp_path / "mine.yaml"))
    assert "\n  add the masks\n" in said


@pytest.mark.parametrize(("labels", "other"), [("labelIds", "labelTrainIds"), ("labelTrainIds", "labelIds")])
def test_cityscapes_with_the_other_label_files(tmp_path, capsys, labels, other):
    root, fix = tmp_path / "twin", tmp_path / "fix.yaml"
    layout = CityscapesLayout(other)
    write_synthetic(root, CITYSCAPES_SPEC, layout, {"train": 2, "val": 1}, (32, 64))
    init_args = {"root": str(root), "num_workers": 0, "labels": labels}
    config = tmp_path / "mine.yaml"
    config.write_text(
        yaml.safe_dump({"data": {"class_path": "segbench.data.cityscapes.Cityscapes", "init_args": init_args}})
    )
    status, said = doctor(capsys, "--config", config, "--fix", fix)
    assert status == 1
    assert f"error  names differ: there are no masks called {labels}, but {other}" in said
    assert yaml.safe_load(fix.read_text())["data"]["init_args"] == {"labels": other}
    assert doctor(capsys, "--config", config, "--config", fix)[0] == 0


def test_listed_names_without_files_are_not_counted_as_unpaired_masks(tmp_path):
    counts = dict.fromkeys(COUNTS, 2)
    write_synthetic(tmp_path / "twin", DEEPFASHION_SPEC, DeepFashionLayout(), counts, (32, 32))
    names = sorted(path.name for path in (tmp_path / "twin/images").iterdir())
    (tmp_path / "twin/shape_ann").mkdir()
    for i, split in enumerate(COUNTS):
        lines = [*names[2 * i : 2 * i + 2], "gone.jpg"] if split == "val" else names[2 * i : 2 * i + 2]
        (tmp_path / f"twin/shape_ann/{split}_ann_file.txt").write_text("\n".join(lines))
    warned = [f for f in visit(DeepFashion(tmp_path / "twin"), 1).findings if "left out" in f.text]
    assert [(finding.level, finding.name) for finding in warned] == [("warning", "names without image")]
    assert "gone" in warned[0].text


def test_files_that_two_splits_show_are_read_once(sound, monkeypatch):
    read = []
    monkeypatch.setattr(
        FolderLayout, "read", lambda self, pair: read.append(pair.image) or Layout.read(self, pair)
    )
    diagnosis = visit(FolderDataModule(splits={"test": "val"}, **sound.options), num_workers=1)
    assert len(read) == len(set(read)) == 8
    assert [record.split for record in diagnosis.records] == ["train"] * 5 + ["val"] * 3 + ["test"] * 3


@pytest.mark.parametrize("option", ["--fix", "--out"])
def test_files_that_exist_stay_as_they_are(sound, tmp_path, capsys, option):
    one_based(sound)
    there = tmp_path / "classes.png"
    there.write_text("mine")
    path = there if option == "--fix" else tmp_path
    assert doctor(capsys, "--config", sound.yaml(tmp_path / "mine.yaml"), option, path)[0] == 2
    assert there.read_text() == "mine"


def test_exif_is_no_fault_where_masks_were_turned_as_well(sound, tmp_path, capsys):
    exif_turned(sound)
    sound.save(sound.mask("train", 2), np.zeros(SIZE[::-1], np.uint8))
    status, said = doctor(capsys, "--config", sound.yaml(tmp_path / "mine.yaml"))
    assert status == 0
    assert "EXIF" not in said
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down: no size to tell
    Image.open(sound.image("train", 1)).save(sound.image("train", 1), exif=exif)
    assert "warning  EXIF orientation: " in doctor(capsys, "--config", sound.yaml(tmp_path / "mine.yaml"))[1]


def test_several_faults_are_fixed_by_one_overlay(sound, tmp_path, capsys):
    one_based(sound)
    missing_mask(sound)
    damaged_image(sound)
    config, fix = sound.yaml(tmp_path / "mine.yaml"), tmp_path / "fix.yaml"
    status, said = doctor(capsys, "--config", config, "--fix", fix)
    assert status == 1
    assert "3 errors" in said
    assert doctor(capsys, "--config", config, "--config", fix)[0] == 0
    labels = read_all(config, fix)
    assert labels.keys() == sound.truth.keys()
    assert all((label == sound.truth[key]).all() for key, label in labels.items())


def test_a_test_split_that_is_val_once_more_is_no_leak(sound, tmp_path, capsys):
    sound.options["splits"] = {"test": "val"}
    status, said = doctor(capsys, "--config", sound.yaml(tmp_path / "mine.yaml"))
    assert status == 0
    assert "note  one split twice: test shows the files of val" in said


def test_mistakes_are_one_line(sound, tmp_path, capsys):
    for args in (
        ["--config", str(tmp_path / "no.yaml")],
        [],
        ["--config", str(sound.yaml(tmp_path / "a.yaml")), "--data.init_args.nix", "1"],
    ):
        with pytest.raises(SystemExit) as stop:
            main(["doctor", *args])
        assert stop.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_left_out_images_are_left_out(sound):
    data = FolderDataModule(exclude=["images/train/0.png"], **sound.options)
    assert [pair.name for pair in data.dataset("train").pairs] == ["1", "2", "3", "4"]
    everything = [f"images/test/{i}.png" for i in range(2)]
    with pytest.raises(ValueError, match="exclude leaves no image of split 'test'"):
        FolderDataModule(exclude=everything, **sound.options).dataset("test")


def test_masks_elsewhere_are_found_where_splits_are_drawn(sound, tmp_path, capsys):
    no_splits(sound)
    (sound.root / "masks").rename(sound.root / "labels")
    sound.options["splits"] = {"val": 0.2, "test": 0.2}
    config, fix = sound.yaml(tmp_path / "mine.yaml"), tmp_path / "fix.yaml"
    with pytest.raises(ValueError, match="which holds the folders images, labels; add the masks"):
        FolderDataModule(**sound.options).dataset("train")
    status, said = doctor(capsys, "--config", config, "--fix", fix)
    assert status == 1
    assert yaml.safe_load(fix.read_text()) == {"data": {"init_args": {"masks": "labels/{split}"}}}
    assert "missing mask" not in said
    assert doctor(capsys, "--config", config, "--config", fix)[0] == 0


def test_an_orientation_tag_of_a_mask_is_named_and_turns_neither_ids_nor_colours(sound, tmp_path, capsys):
    exif = Image.Exif()
    exif[0x0112] = 3
    sound.options["palette"] = [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    colors = np.array(sound.options["palette"], np.uint8)
    for i, stored in enumerate((sound.truth["train/0"], colors[sound.truth["train/1"]])):
        Image.fromarray(stored).save(sound.mask("train", i), exif=exif)
    config = sound.yaml(tmp_path / "mine.yaml")
    status, said = doctor(capsys, "--config", config)
    assert status == 0
    assert "warning  mask orientation: 2 of 10 images have masks" in said
    labels = read_all(config)
    for key in ("train/0", "train/1"):
        np.testing.assert_array_equal(labels[key], sound.truth[key])


@pytest.mark.parametrize("file", ["images/train/1.png", "masks/train/1.png"])
def test_a_file_of_somebody_else_is_a_finding(sound, tmp_path, capsys, monkeypatch, file):
    """Root may read everything, so the system's refusal is played."""
    forbidden, opened = sound.root / file, io.open

    def refuse(path, *args, **options):
        if str(path) == str(forbidden):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return opened(path, *args, **options)

    monkeypatch.setattr("io.open", refuse)
    monkeypatch.setattr("builtins.open", refuse)
    status, told = doctor(capsys, "--config", sound.yaml(tmp_path / "mine.yaml"), "--cache", "false")
    assert status == 1
    assert f"1 of 10 images cannot be read: Permission denied: {file}" in told
    assert "damaged" not in told

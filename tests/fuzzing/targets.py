"""Targets of the fuzzer: files that users have, each with the function that reads it."""

import contextlib
import io
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import mutations
import numpy as np
import yaml
from PIL import Image

from segbench.__main__ import main

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
CLASSES = ("sky", "road", "car")
PALETTE = ((70, 130, 180), (128, 64, 128), (0, 0, 142))


class Target(NamedTuple):
    """A file and its reader.

    Attributes:
        seed: Path of the intact file below the workshop, where its damaged copies are written.
        damage: Returns a damaged copy of its bytes.
        read: Reads the file; raises ValueError or OSError, or SystemExit after one line.
    """

    seed: str
    damage: Callable[[bytes, random.Random], bytes]
    read: Callable[[], object]


def build(folder: Path) -> None:
    """Creates the workshop: a dataset, a run on it, and files written by the commands."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for split, count in {"train": 3, "val": 2, "test": 1}.items():
        for index in range(count):
            labels = _labels(generator)
            _write(folder / f"data/images/{split}/{index}.png", _scene(labels, generator))
            _write(folder / f"data/masks/{split}/{index}.png", labels)
    table = [f"{r} {g} {b} {name}\n" for name, (r, g, b) in zip(CLASSES, PALETTE, strict=True)]
    (folder / "data/classes.txt").write_text("".join(table))
    (folder / "data/train.txt").write_text("train/0\ntrain/1\n")
    _one_file_sets(folder, generator)
    (folder / "fit.yaml").write_text(yaml.safe_dump(_overlay(), sort_keys=False))
    (folder / "sweep.yaml").write_text(yaml.safe_dump(_sweep(), sort_keys=False))
    with _inside(folder):
        linear = str(EXPERIMENTS / "linear.yaml")
        main(["fit", "--config", linear, "--config", "fit.yaml", "--experiment", "tiny", "--run_id", "base"])
        checkpoint = "runs/tiny/base/checkpoints/best.ckpt"
        main(["export", "--checkpoint", checkpoint, "--format", "safetensors", "--out", "model.safetensors"])
        main(["segment", "data/images/test", "--checkpoint", checkpoint, "--out", "labels"])
        shutil.copy(checkpoint, "model.ckpt")
        shutil.copytree("runs/tiny/base", "runs/tiny/damaged", ignore=shutil.ignore_patterns("panels"))


def targets() -> dict[str, Target]:
    """Returns all targets by name; paths are relative to the working directory."""
    found = {
        "yaml": Target("fit.yaml", mutations.damage_yaml, _parse),
        "sweep": Target("sweep.yaml", mutations.damage_yaml, _check_sweep),
        "class table": Target("data/classes.txt", _text, lambda: _data(Path("data"))),
        "list": Target("data/train.txt", _text, lambda: _data(Path("data"), splits={"train": "train.txt"})),
        "checkpoint": Target("model.ckpt", mutations.damage_checkpoint, lambda: _load("model.ckpt")),
        "safetensors": Target(
            "model.safetensors", mutations.damage_safetensors, lambda: _load("model.safetensors")
        ),
        "ledger": Target("runs/tiny/damaged/ledger.npz", mutations.damage_ledger, _load_ledger),
        "run.json": Target("runs/tiny/damaged/run.json", mutations.damage_json, _report),
        "config.yaml": Target("runs/tiny/damaged/config.yaml", mutations.damage_yaml, _report),
        "metrics.csv": Target("runs/tiny/damaged/metrics.csv", _text, _read_metrics),
        "resumed config.yaml": Target("runs/tiny/damaged/config.yaml", mutations.damage_yaml, _resume),
        "segment.jsonl": Target("labels/segment.jsonl", mutations.damage_json_lines, _open_record),
    }
    for kind in (*IMAGES, *MASKS):
        damage = mutations.damage_png if "png" in kind else mutations.damage_bytes
        part = "masks" if kind in MASKS else "images"
        suffix = kind.split()[-1]
        path = f"sets/{kind}/{part}/train/0.{suffix}"
        found[kind] = Target(path, damage, lambda kind=kind: _data(Path("sets") / kind))
    return found


IMAGES = (
    *(
        "rgb png",
        "16-bit png",
        "palette png",
        "transparent png",
        "grey jpg",
        "rgb jpg",
        "lossless webp",
        "rgb bmp",
    ),
    *("lzw tif", "16-bit tif", "rgb ppm", "rgb gif"),
)
MASKS = ("ids png", "indexed png", "coloured png", "16-bit ids png", "ids tif", "ids bmp")


def _labels(generator) -> np.ndarray:
    return np.repeat(np.repeat(generator.integers(0, 3, (6, 8), dtype=np.uint8), 8, 0), 8, 1)


def _scene(labels, generator) -> np.ndarray:
    noise = generator.integers(0, 40, (*labels.shape, 3))
    return np.clip(np.array(PALETTE)[labels] + noise, 0, 255).astype(np.uint8)


def _write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def _one_file_sets(folder: Path, generator) -> None:
    """Writes a dataset of one image for each image format."""
    labels = _labels(generator)
    scene = _scene(labels, generator)
    wide = scene.astype(np.uint16) * 257
    paletted = Image.fromarray(labels)
    paletted.putpalette([number for color in PALETTE for number in color])
    pictures = {
        "rgb png": scene,
        "16-bit png": wide,
        "palette png": Image.fromarray(scene).quantize(16),
        "transparent png": Image.fromarray(np.dstack([scene, np.full_like(labels, 255)])),
        "grey jpg": scene[..., 0],
        "rgb jpg": scene,
        "lossless webp": scene,
        "rgb bmp": scene,
        "lzw tif": scene,
        "16-bit tif": wide,
        "rgb ppm": scene,
        "rgb gif": Image.fromarray(scene).quantize(16),
        "ids png": labels,
        "indexed png": paletted,
        "coloured png": np.array(PALETTE, np.uint8)[labels],
        "16-bit ids png": labels.astype(np.uint16),
        "ids tif": labels,
        "ids bmp": labels,
    }
    for kind, content in pictures.items():
        is_mask = kind in MASKS
        base = folder / "sets" / kind
        base.mkdir(parents=True)
        shutil.copy(folder / "data/classes.txt", base)
        for part in ("images", "masks"):
            own = (part == "masks") == is_mask
            suffix = kind.split()[-1] if own else "png"
            path = base / part / "train" / f"0.{suffix}"
            path.parent.mkdir(parents=True)
            if not own:
                Image.fromarray(scene if part == "images" else labels).save(path)
            elif isinstance(content, Image.Image):
                content.save(path)
            else:
                cv2.imwrite(str(path), content[..., ::-1] if content.ndim == 3 else content)


def _overlay() -> dict:
    return {
        "data": {
            "class_path": "segbench.data.folder.FolderDataModule",
            "init_args": {
                "root": "data",
                "img_size": [32, 32],
                "batch_size": 1,
                "num_workers": 0,
                "splits": {"val": "val"},
                "remap": {3: 255},
            },
        },
        "model": {
            "init_args": {
                "encoder": {
                    "init_args": {"model_name": "vit_tiny_patch16_384", "pretrained": False, "depths": [0]}
                },
                "schedule": {"init_args": {"warmup_steps": 0}},
                "window": None,
                "stride": None,
                "resize": None,
            }
        },
        "trainer": {
            "accelerator": "cpu",
            "devices": 1,
            "max_steps": 2,
            "val_check_interval": 2,
            "check_val_every_n_epoch": None,
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        },
        "panels": {"num_images": 1},
    }


def _sweep() -> dict:
    return {
        "name": "tiny",
        "method": "grid",
        "metric": {"name": "val/miou", "goal": "maximize"},
        "command": [
            *("${interpreter}", "-m", "segbench", "fit", "--config", str(EXPERIMENTS / "linear.yaml")),
            *("--config", "fit.yaml", "--config", "${args_json_file}"),
        ],
        "parameters": {
            "seed_everything": {"values": [0, 1]},
            "model.init_args.optimizer.init_args.lr": {"values": [0.001, 0.01]},
        },
    }


@contextlib.contextmanager
def _inside(folder: Path):
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _text(data: bytes, random: random.Random) -> bytes:
    return mutations.damage_text(data.decode(), random)


def _silently(args: list[str]) -> None:
    """Runs a command; a refusal in one line becomes a ValueError, other outcomes are unchanged."""
    stderr = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(stderr):
        try:
            main(args)
        except SystemExit as stop:
            lines = [line for line in stderr.getvalue().splitlines() if line.startswith("segbench: error: ")]
            if stop.code not in {0, None}:
                if len(lines) != 1:
                    raise AssertionError(f"exit {stop.code} after {stderr.getvalue()[-2000:]!r}") from None
                raise ValueError(lines[0]) from None


def _parse() -> None:
    _silently(["fit", "--config", str(EXPERIMENTS / "linear.yaml"), "--config", "fit.yaml", "--print_config"])


def _check_sweep() -> None:
    from segbench.commands.sweep.command import check
    from segbench.commands.sweep.file import read_sweep

    check(read_sweep(Path("sweep.yaml"), None, []))


def _data(root: Path, **options) -> None:
    """Reads all images and masks as in training."""
    from segbench.data.folder import FolderDataModule

    module = FolderDataModule(root, num_workers=0, **options)
    module.prepare_data()
    dataset = module.dataset("train")
    for index in range(len(dataset)):
        item = dataset.read(index)
        label = np.asarray(item.label)
        assert item.image.dtype == np.uint8
        assert item.image.shape == (*label.shape, 3)
        assert set(np.unique(label).tolist()) <= {*range(module.num_classes), module.ignore_index}


def _load(path: str) -> None:
    import torch

    import segbench

    task = segbench.load(path)
    preds = task.segment(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    assert preds.shape == (1, 32, 32)


def _load_ledger() -> None:
    from segbench.runs.ledger_file import load_ledger

    saved = load_ledger(Path("runs/tiny/damaged/ledger.npz"))
    saved.ledger.total(len(saved.class_names))


def _report() -> None:
    _silently(["report", "runs", "--out", "report"])


def _read_metrics() -> None:
    """Resumes logging, and reads the metrics like a sweep."""
    from segbench.commands.sweep.job import columns, read_metric
    from segbench.runs.metrics_csv import MetricsCSV

    path = Path("runs/tiny/damaged/metrics.csv")
    read_metric(path, "val/miou")
    columns(path)
    MetricsCSV(path.parent).log_metrics({"val/miou": 0.5}, step=3)


def _resume() -> None:
    _silently(["fit", "--resume", "runs/tiny/damaged", "--print_config"])


def _open_record() -> None:
    from segbench.commands.segment.record import open_record

    with open_record(
        Path("labels"), [Path("data/images/test/0.png")], {"window": None}, overwrite=True
    ) as record:
        record.is_done(Path("data/images/test/0.png"))

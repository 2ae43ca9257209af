"""A user's folder of images, masks and class names, and a configuration to train on it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image
from tiny import QUIET, vit

NAMES = ("ground", "box", "ball")
SPLITS = {"train": 4, "val": 2, "test": 2}
SHADES = np.array([(60, 60, 60), (200, 40, 40), (40, 200, 40)], np.uint8)


def scene(rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Returns an image (40, 48, 3) of three classes and its class ids (40, 48)."""
    ids = np.zeros((40, 48), np.uint8)
    for k in (1, 2):
        y, x = rng.integers(0, 20), rng.integers(0, 8) + (k - 1) * 24
        ids[y : y + 16, x : x + 14] = k
    noise = rng.integers(-15, 16, (*ids.shape, 3))
    return np.clip(SHADES[ids].astype(int) + noise, 0, 255).astype(np.uint8), ids


def write_folder(
    root: Path,
    classes: Sequence[str] = NAMES,
    mask: Callable[[NDArray[np.uint8], str], NDArray[np.uint8]] = lambda ids, _: ids,
    splits: Mapping[str, int] = SPLITS,
    seed: int = 0,
) -> Path:
    """Writes images/SPLIT, masks/SPLIT and classes.txt; `mask` maps ids and the name of the split to a mask."""
    rng = np.random.default_rng(seed)
    for split, number in splits.items():
        for part in ("images", "masks"):
            (root / part / split).mkdir(parents=True)
        for index in range(number):
            image, ids = scene(rng)
            Image.fromarray(image).save(root / "images" / split / f"{split}{index}.png")
            Image.fromarray(mask(ids, split)).save(root / "masks" / split / f"{split}{index}.png")
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")
    return root


def write_config(path: Path, root: Path, decoder: str = "linear.LinearDecoder") -> Path:
    """Writes the YAML for two steps and one validation."""
    encoder = {"class_path": "segbench.encoders.timm_vit.TimmViT", **vit()}
    config = {
        "model": {
            "class_path": "segbench.tasks.semantic.SemanticTask",
            "init_args": {
                "encoder": encoder,
                "decoder": {"class_path": f"segbench.decoders.{decoder}"},
                "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3}},
            },
        },
        "data": {
            "class_path": "segbench.data.folder.FolderDataModule",
            "init_args": {"root": str(root), "img_size": [32, 32], "batch_size": 2, "num_workers": 0},
        },
        "trainer": QUIET
        | {
            "max_steps": 2,
            "max_epochs": -1,
            "val_check_interval": 2,
            "check_val_every_n_epoch": None,
            "num_sanity_val_steps": 0,
        },
    }
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path

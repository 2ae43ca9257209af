"""The smallest training by the command line: an overlay that reduces any experiment to about a second."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
SCENES = {
    "num_classes": 4,
    "image_size": [64, 64],
    "num_images": {"train": 4, "val": 1, "test": 1},
    "img_size": [32, 32],
    "scale": None,
    "batch_size": 2,
    "num_workers": 0,
}
WHOLE = {"window": None, "stride": None, "resize": None}
QUIET = {
    "accelerator": "cpu",
    "devices": 1,
    "accumulate_grad_batches": 1,
    "log_every_n_steps": 1,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}

# init_args that make the encoder of an experiment small, by class.
ENCODERS = {
    "TimmViT": {"pretrained": False, "depths": [0]},  # one block
    "ConvEncoder": {"base_features": 2},
    "PatchViT": {"depth": 1, "hidden": [16], "bottleneck": [16]},
}


def vit(**changes: Any) -> dict[str, Any]:
    """Returns a ViT of one block with random weights, to replace that of an experiment."""
    args = {"model_name": "vit_tiny_patch16_384", "pretrained": False, "depths": [0], "drop_path_rate": 0.0}
    return {"init_args": args | changes}


def overlay(data: dict[str, Any], model: dict[str, Any], **trainer: Any) -> str:
    """Returns YAML for synthetic scenes; `data` and `model` are init_args."""
    return yaml.safe_dump(
        {
            "data": {
                "class_path": "segbench.data.synthetic.SyntheticDataModule",
                "init_args": SCENES | data,
            },
            "model": {"init_args": WHOLE | model},
            "trainer": QUIET | trainer,
        }
    )


def two_steps(config: Mapping[str, Any], data: dict[str, Any]) -> str:
    """Returns YAML that keeps task, components and dataset of an experiment, for two steps and a validation.

    `config` is the configuration of the experiment, `data` has init_args by which its dataset finds a twin.
    """
    encoder = config["model"]["init_args"]["encoder"]["class_path"].rpartition(".")[2]
    small = {"encoder": {"init_args": ENCODERS[encoder]}, "schedule": {"init_args": {"warmup_steps": 0}}}
    crops = {name: SCENES[name] for name in ("img_size", "scale", "batch_size", "num_workers")}
    steps = {"max_steps": 2, "val_check_interval": 2, "check_val_every_n_epoch": None}
    return yaml.safe_dump(
        {
            "model": {"init_args": WHOLE | small},
            "data": {"init_args": crops | data},
            "trainer": QUIET | steps | {"num_sanity_val_steps": 0},
        }
    )


def training(folder: Path, text: str) -> list[str]:
    """Writes an overlay into the working directory, and returns the command that trains `mine` with it."""
    (folder / "tiny.yaml").write_text(text)
    options = ["--config", "tiny.yaml", "--panels.num_images", "0", "--run_id", "mine"]
    return ["fit", "--config", str(EXPERIMENTS / "linear.yaml"), *options]

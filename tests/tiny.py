"""The smallest training of the command line: an overlay that makes any experiment a matter of a second."""

from typing import Any

import yaml

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


def vit(**changes: Any) -> dict[str, Any]:
    """One block with random weights, in place of an experiment's ViT."""
    args = {"model_name": "vit_tiny_patch16_384", "pretrained": False, "depths": [0], "drop_path_rate": 0.0}
    return {"init_args": args | changes}


def overlay(data: dict[str, Any], model: dict[str, Any], **trainer: Any) -> str:
    """Writes YAML for drawn scenes; `data` and `model` are init_args."""
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

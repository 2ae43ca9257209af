"""The first trial of a sweep for one step on synthetic scenes: what is wrong shows before hours are spent."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

SYNTHETIC = "segbench.data.synthetic.SyntheticDataModule"
# Whose classes and folders are the user's own, so that its twin would not fit its options.
FREE_FORM = "segbench.data.folder.FolderDataModule"
_KEPT = ("img_size", "batch_size", "num_workers", "eval_batch_size", "scale", "augment", "train_transforms")
SCENE = (64, 64)  # height and width


def overlay(config: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """Says how a trial becomes its own dry run.

    Batch size and crop stay as they are, so that a model that does not fit into memory shows it.

    Args:
        config: The trial's, resolved.
        root: Where the twin's files are, or will be.

    Returns:
        Configuration that is laid over the trial's.
    """
    options = dict(config["data"]["init_args"])
    data: dict[str, Any]
    if has_twin(config):
        data = {"init_args": {"root": str(root), "num_workers": 0}}
        if options.get("cache"):
            data["init_args"]["cache"] = False
    else:
        kept = {name: options[name] for name in _KEPT if name in options} | {"num_workers": 0}
        number = images(config)
        kept |= {"image_size": list(SCENE), "num_images": {"train": number, "val": 2, "test": 2}}
        kept |= {"cache_dir": str(root)}
        if "num_classes" in options:
            kept["num_classes"] = options["num_classes"]
        data = {"class_path": SYNTHETIC, "init_args": kept}
    laid_over: dict[str, Any] = {
        "data": data,
        "trainer": {
            "max_steps": 1,
            "max_epochs": -1,
            "max_time": None,
            "accumulate_grad_batches": 1,
            "val_check_interval": 1,
            "check_val_every_n_epoch": None,
            "limit_val_batches": 1,
            "log_every_n_steps": 1,
            "num_sanity_val_steps": 0,
            "enable_progress_bar": False,
        },
    }
    model = config["model"]["init_args"]
    changed: dict[str, Any] = {}
    if "from_scratch" in model:
        changed["from_scratch"] = True  # without network, and quicker
    if "warmup_steps" in ((model.get("schedule") or {}).get("init_args") or {}):
        changed["schedule"] = {"init_args": {"warmup_steps": 0}}
    return laid_over | {"model": {"init_args": changed}}


def has_twin(config: Mapping[str, Any]) -> bool:
    """Returns whether the trial's dataset can be drawn in its own layout."""
    return config["data"]["class_path"] not in (SYNTHETIC, FREE_FORM)


def images(config: Mapping[str, Any]) -> int:
    """Counts the scenes of a dry run: enough for a batch on each of two devices."""
    return max(8, 2 * int(config["data"]["init_args"].get("batch_size", 8)))

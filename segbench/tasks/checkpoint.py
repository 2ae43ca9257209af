"""Checkpoints that say by themselves what they are: read safely, checked, rebuilt."""

import warnings
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser
from torch import Tensor, nn

from segbench.encoders.base import weights_follow
from segbench.tasks.base import Task
from segbench.tasks.safetensors_file import parse_description, read_safetensors
from segbench.tasks.trust import check_classes, check_trust

HUB_CONFIG, HUB_WEIGHTS = "config.json", "model.safetensors"  # the names that Hugging Face's tools look for


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint without running anything from it.

    Args:
        path: A `.ckpt` of `segbench fit`, or a `.safetensors` or a Hugging Face folder of `segbench export`.

    Returns:
        Its content, on the CPU; only a `.ckpt` holds optimiser and step.

    Raises:
        ValueError: If there is no such file, or it is no segbench checkpoint.
    """
    path = Path(path)
    if path.is_dir():
        content: Any = _read_hub_folder(path)
    elif not path.is_file():
        raise ValueError(f"there is no checkpoint {path}")
    elif path.suffix == ".safetensors":
        content = read_safetensors(path)
    else:
        content = _unpickle(path)
    parts = [
        content.get(key) if isinstance(content, dict) else None for key in ("state_dict", "hyper_parameters")
    ]
    if not all(isinstance(part, dict) for part in parts):
        raise ValueError(
            f"{path} is no segbench checkpoint: state_dict and hyper_parameters are missing; "
            "checkpoints are what `segbench fit` leaves in RUN/checkpoints"
        )
    for name, value in content["state_dict"].items():
        plain = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta
        if not isinstance(name, str) or not plain:
            kind = type(value).__name__
            raise ValueError(f"{path} is damaged: weight {name!r} is a {kind}, not plain numbers")
    return dict(content)


def has_training_state(checkpoint: dict[str, Any]) -> bool:
    """Tells whether Lightning can read the file itself, and a training can go on from it.

    Args:
        checkpoint: From `read_checkpoint`.

    Returns:
        False for what `segbench export` writes.
    """
    return "pytorch-lightning_version" in checkpoint


def _unpickle(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is wrong with the file is told in one line
            return torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise
    except Exception as error:  # a file of another kind makes the unpickler stumble in any way
        raise ValueError(
            f"{path} is damaged, no checkpoint at all, or holds more than tensors and plain values; "
            "only files that load without running code from them are read"
        ) from error


def _read_hub_folder(folder: Path) -> dict[str, Any]:
    """Reads config.json and model.safetensors; what stands in config.json wins over the other's metadata."""
    config, weights = folder / HUB_CONFIG, folder / HUB_WEIGHTS
    if not config.is_file() or not weights.is_file():
        raise ValueError(
            f"{folder} is no checkpoint: {HUB_CONFIG} and {HUB_WEIGHTS} are not both in it; "
            "give a file of RUN/checkpoints, or a folder of `segbench export --format huggingface`"
        )
    try:
        text = config.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{config} is damaged: {error}") from error
    return {**read_safetensors(weights, described=False), **parse_description(text, config)}


def model_config(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Extracts how the model was configured.

    Args:
        checkpoint: From `read_checkpoint`.

    Returns:
        `class_path` and `init_args`, as in YAML.

    Raises:
        ValueError: If the model was built in Python, so that its configuration is not there.
    """
    saved = dict(checkpoint["hyper_parameters"])
    saved.pop("_instantiator", None)
    class_path = saved.pop("_class_path", None)
    if class_path is None:
        raise ValueError("the checkpoint does not say how its model was built; train it through `segbench fit`")
    return {"class_path": class_path, "init_args": saved}


def run_config(
    checkpoint: dict[str, Any], path: str | Path, trust: str | Sequence[str] | None = None
) -> dict[str, Any]:
    """Extracts what was trained and on what, not where to write nor which callbacks to run.

    Args:
        checkpoint: From `read_checkpoint`; the file may be a stranger's.
        path: For the message.
        trust: Packages beside segbench whose classes may be named.

    Returns:
        `seed_everything`, `experiment`, `model`, `data` and the trainer's precision, as in YAML.

    Raises:
        ValueError: If there is no such configuration, or it names code that is not trusted.
    """
    ours = checkpoint.get("segbench")
    if ours is None:
        raise ValueError(f"{path} carries no configuration; give it by --config … --ckpt_path CKPT")
    try:
        saved = yaml.safe_load(ours["config"])
        kept = {key: saved[key] for key in ("seed_everything", "experiment", "model", "data")}
        kept["trainer"] = {"precision": saved["trainer"]["precision"]}
        kept["data"]["init_args"].pop("cache_dir", None)
    except (KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise ValueError(
            f"{path} carries a configuration that is not understood ({type(error).__name__}); "
            "give it by --config … --ckpt_path CKPT"
        ) from error
    check_trust(kept, path, trust)
    return kept


def check_fits(model: nn.Module, checkpoint: dict[str, Any], path: str | Path) -> None:
    """Compares keys and shapes before anything is overwritten.

    Args:
        model: What the weights are meant for.
        checkpoint: From `read_checkpoint`.
        path: For the message.

    Raises:
        ValueError: If they do not fit, or are no numbers.
    """
    theirs = checkpoint["state_dict"]
    classes = checkpoint["hyper_parameters"].get("num_classes")
    if classes is not None and classes != getattr(model, "num_classes", classes):
        raise ValueError(f"{path} was trained with {classes} classes, but the data has {model.num_classes}")
    ours = model.state_dict()
    missing, unknown = sorted(ours.keys() - theirs.keys()), sorted(theirs.keys() - ours.keys())
    if missing or unknown:
        raise ValueError(
            f"{path} does not fit this model: {len(missing)} weights missing {missing[:2]}, "
            f"{len(unknown)} unknown {unknown[:2]}; use the configuration it was trained with"
        )
    for name, value in ours.items():
        if value.shape != theirs[name].shape:
            raise ValueError(
                f"{path} does not fit this model: {name} is {tuple(theirs[name].shape)} there and "
                f"{tuple(value.shape)} here; use the configuration it was trained with"
            )
        if theirs[name].isnan().any():
            raise ValueError(
                f"{path} is of no use: {name} has values that are no numbers, as a training that diverged"
                " leaves them; take an earlier checkpoint"
            )


def load_task(path: str | Path, trust: str | Sequence[str] | None = None) -> Task:
    """Rebuilds a trained task from its checkpoint alone.

    Args:
        path: A `.ckpt` of `segbench fit`, or a `.safetensors` or a Hugging Face folder of `segbench export`.
        trust: Packages beside segbench whose classes may be built.

    Returns:
        The task in evaluation mode, on the CPU.

    Raises:
        ValueError: If the checkpoint is none of ours, damaged, or names code that is not trusted.
    """
    return restore_task(read_checkpoint(path), path, trust)


def restore_task(
    checkpoint: dict[str, Any], path: str | Path, trust: str | Sequence[str] | None = None
) -> Task:
    """Rebuilds a trained task.

    Args:
        checkpoint: From `read_checkpoint`.
        path: For messages.
        trust: Packages beside segbench whose classes may be built.

    Returns:
        The task in evaluation mode, on the CPU.

    Raises:
        ValueError: If weights and configuration do not fit, or the latter names code that is not trusted.
    """
    task = build_task(model_config(checkpoint), path, trust)
    check_fits(task, checkpoint, path)
    task.load_state_dict(checkpoint["state_dict"])
    return task.eval()


def build_task(model: dict[str, Any], path: str | Path, trust: str | Sequence[str] | None = None) -> Task:
    """Builds a task as a checkpoint describes it, its weights still to be filled in.

    Args:
        model: `class_path` and `init_args`, as in YAML.
        path: The checkpoint, for messages.
        trust: Packages beside segbench whose classes may be built.

    Returns:
        The task.

    Raises:
        ValueError: If the configuration is not understood, or names code that is not trusted.
    """
    model = deepcopy(model)  # the parser writes into what it parses
    check_trust(model, path, trust)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Task, "model")
    try:
        config = parser.parse_object({"model": model})
        check_classes(config.model)
        with weights_follow():
            task: Task = parser.instantiate(config).model
    except Exception as error:  # the file may hold any numbers, and any of them may be wrong
        raise ValueError(f"{path}: its model cannot be built: {error}") from error
    return task

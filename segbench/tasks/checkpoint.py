"""Checkpoints that say by themselves what they are: read safely, checked, rebuilt."""

import os
from pathlib import Path
from pydoc import locate
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser, Namespace
from torch import nn

from segbench.encoders.base import weights_follow
from segbench.tasks.base import Task

# Packages whose classes a checkpoint may name, and the arguments of a task that are classes to be built.
TRUSTED = {"segbench", "torch", "albumentations"}
JOINTS = ("encoder", "necks", "decoder", "losses", "optimizer", "schedule", "postprocess")


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint without running anything from it.

    Args:
        path: A `.ckpt` of `segbench fit`.

    Returns:
        Its content, on the CPU.

    Raises:
        ValueError: If there is no such file, or it is no segbench checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no checkpoint {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise
    except Exception as error:  # a file of another kind makes the unpickler stumble in any way
        raise ValueError(
            f"{path} is damaged, no checkpoint at all, or holds more than tensors and plain values; "
            "only files that load without running code from them are read"
        ) from error
    if not isinstance(content, dict) or "state_dict" not in content or "hyper_parameters" not in content:
        raise ValueError(
            f"{path} is no segbench checkpoint: state_dict and hyper_parameters are missing; "
            "checkpoints are what `segbench fit` leaves in RUN/checkpoints"
        )
    return content


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


def run_config(checkpoint: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """Extracts what was trained and on what, not where to write nor which callbacks to run.

    Args:
        checkpoint: From `read_checkpoint`; the file may be a stranger's.
        path: For the message.

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
    check_trust(kept, path)
    return kept


def check_trust(config: Any, path: str | Path) -> None:
    """Refuses a configuration from a checkpoint that names code from anywhere but known packages.

    A class path makes Python import its module; a stranger's file must not choose which.

    Args:
        config: The configuration, or a part of it.
        path: The checkpoint, for the message.

    Raises:
        ValueError: If a class lies outside segbench, torch and albumentations, and its package is not named in
            the environment variable `SEGBENCH_TRUST`.
    """
    if isinstance(config, dict):
        named = [config["class_path"]] if "class_path" in config else []
        # jsonargparse takes a bare string for a class path as well.
        named += [part for key in JOINTS for part in _as_list(config.get(key)) if isinstance(part, str)]
        for name in named:
            package = str(name).partition(".")[0]
            if package not in TRUSTED and package not in os.environ.get("SEGBENCH_TRUST", "").split():
                raise ValueError(
                    f"{path} is built with {name}, which is none of segbench's; "
                    f"if you know the file, allow it by SEGBENCH_TRUST={package}"
                )
            if not isinstance(locate(str(name)), type):
                raise ValueError(f"{path} is built with {name}, which is no class that is known here")
        for value in config.values():
            check_trust(value, path)
    elif isinstance(config, (list, tuple)):
        for value in config:
            check_trust(value, path)


def check_classes(model: Namespace) -> None:
    """Refuses functions where classes belong: jsonargparse would call them.

    Args:
        model: The parsed configuration of a task, before anything is built from it.

    Raises:
        ValueError: If a joint of the task is anything but a class.
    """
    for joint in JOINTS:
        for part in _as_list(model.get(f"init_args.{joint}")):
            name = part.class_path if isinstance(part, Namespace) and "class_path" in part else part
            if not isinstance(locate(name) if isinstance(name, str) else name, type):
                raise ValueError(f"{joint}: {name} is no class")


def _as_list(value: Any) -> list[Any]:
    if isinstance(value, (list, tuple)):
        return list(value)
    return [] if value is None else [value]


def check_fits(model: nn.Module, checkpoint: dict[str, Any], path: str | Path) -> None:
    """Compares keys and shapes before anything is overwritten.

    Args:
        model: What the weights are meant for.
        checkpoint: From `read_checkpoint`.
        path: For the message.

    Raises:
        ValueError: If they do not fit.
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


def load_task(path: str | Path) -> Task:
    """Rebuilds a trained task from its checkpoint alone.

    Args:
        path: A `.ckpt` of `segbench fit`.

    Returns:
        The task in evaluation mode, on the CPU.

    Raises:
        ValueError: If the checkpoint is none of ours, or damaged.
    """
    checkpoint = read_checkpoint(path)
    saved = model_config(checkpoint)
    check_trust(saved, path)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Task, "model")
    try:
        config = parser.parse_object({"model": saved})
    except Exception as error:
        raise ValueError(f"{path}: its configuration is not understood: {error}") from error
    with weights_follow():
        task: Task = parser.instantiate_classes(config).model
    check_fits(task, checkpoint, path)
    task.load_state_dict(checkpoint["state_dict"])
    return task.eval()

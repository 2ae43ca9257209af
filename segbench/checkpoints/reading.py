"""Checkpoints that say by themselves what they are: read safely, checked, rebuilt."""

import warnings
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import lightning as L
import torch
from jsonargparse import ArgumentError, ArgumentParser
from torch import Tensor, nn

from segbench.checkpoints.archive import check_archive, check_weights
from segbench.checkpoints.building import build_like
from segbench.checkpoints.safetensors_file import parse_description, read_safetensors
from segbench.checkpoints.trust import check_classes, check_parsed, check_trust, imports_from, vouched
from segbench.encoders.base import skip_pretrained_weights
from segbench.tasks.base import Task
from segbench.utils.errors import readable
from segbench.utils.plain import MAX_TEXT, plain, read_yaml
from segbench.utils.printable import printable

# What the data module knows and the task needs. Shallow links only: deep ones are lost from checkpoints.
FROM_DATA = ("num_classes", "ignore_index", "img_size", "class_names", "palette")
HUB_CONFIG, HUB_WEIGHTS = "config.json", "model.safetensors"  # the names that Hugging Face's tools look for


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint without running anything from it.

    Args:
        path: A `.ckpt` of `segbench fit`, or a `.safetensors` or a Hugging Face folder of `segbench export`.

    Returns:
        Its content, on the CPU; only a `.ckpt` holds optimiser and step.

    Raises:
        ValueError: If the file does not exist, or it is not a segbench checkpoint.
    """
    path = Path(path)
    if path.is_dir():
        content: Any = _read_hub_folder(path)
    elif not path.is_file():
        raise ValueError(f"checkpoint not found: {path}")
    elif path.suffix == ".safetensors":
        content = read_safetensors(path)
    else:
        content = _unpickle(path)
    content = content if isinstance(content, dict) else {}
    if not all(isinstance(content.get(key), dict) for key in ("state_dict", "hyper_parameters")):
        raise ValueError(
            f"{path} is not a segbench checkpoint: state_dict and hyper_parameters are missing; "
            "checkpoints are what `segbench fit` leaves in RUN/checkpoints"
        )
    check_weights(content["state_dict"], path)
    described = {key: plain(content[key], path) for key in ("hyper_parameters", "segbench") if key in content}
    return {**content, **described}


def saved_config(checkpoint: dict[str, Any], path: str | Path) -> dict[str, Any] | None:
    """Reads the configuration of the run that wrote a checkpoint.

    Args:
        checkpoint: From `read_checkpoint`.
        path: For the message.

    Returns:
        All of it, as plain values, to compare or to show: nothing may be built from its trainer. None where
        there is none.

    Raises:
        ValueError: If it is not understood.
    """
    if (text := saved_yaml(checkpoint)) is None:
        return None
    saved = read_yaml(text, path, inert=("trainer",))  # W&B's own `config`, say, may have any keys
    if not isinstance(saved, dict) or not all(
        isinstance(saved.get(key), dict) for key in ("model", "data", "trainer")
    ):
        raise ValueError(
            f"{path} carries a configuration that is not understood: model, data or trainer is none"
        )
    return saved


def saved_yaml(checkpoint: dict[str, Any]) -> str | None:
    """Extracts the same as text.

    Args:
        checkpoint: From `read_checkpoint`.

    Returns:
        YAML; None where there is none.
    """
    ours = checkpoint.get("segbench")
    return str(ours["config"]) if isinstance(ours, dict) and "config" in ours else None


def has_training_state(checkpoint: dict[str, Any]) -> bool:
    """Returns whether Lightning can read the file itself, and a training can resume from it.

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
            check_archive(path)
            return torch.load(path, map_location="cpu", weights_only=True)
    except (PermissionError, MemoryError):
        raise
    except ValueError as error:
        if str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path} is damaged: {printable(error)}") from error
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
            f"{folder} is not a checkpoint: {HUB_CONFIG} and {HUB_WEIGHTS} are not both in it; "
            "give a file of RUN/checkpoints, or a folder of `segbench export --format huggingface`"
        )
    try:
        with config.open(encoding="utf-8") as file:
            text = file.read(MAX_TEXT + 1)  # a longer one is refused by its length
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
        ValueError: If the configuration does not exist, or it names code that is not trusted.
    """
    saved = saved_config(checkpoint, path)
    if saved is None:
        raise ValueError(f"{path} carries no configuration; give it by --config … --ckpt_path CKPT")
    try:
        kept = {key: saved[key] for key in ("seed_everything", "experiment", "model", "data")}
        kept["trainer"] = {"precision": saved["trainer"]["precision"]}
        kept["data"].get("init_args", {}).pop("cache_dir", None)
    except (KeyError, AttributeError) as error:
        raise ValueError(
            f"{path} carries a configuration that is not understood ({type(error).__name__}); "
            "give it by --config … --ckpt_path CKPT"
        ) from error
    kept = check_trust(plain(kept, path), path, trust)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(L.LightningDataModule, "data")
    parser.add_subclass_arguments(Task, "model")
    for key in FROM_DATA:
        parser.link_arguments(f"data.{key}", f"model.init_args.{key}", apply_on="instantiate")
    try:
        names = vouched(kept, trust)
        with imports_from(names):
            parsed = parser.parse_object(deepcopy({key: kept[key] for key in ("model", "data")}))
        check_parsed(parsed, path, names)
        check_classes(parsed.model)
    except (ArgumentError, ValueError) as error:
        raise ValueError(f"{path}: its configuration is not understood: {readable(error)}") from error
    return dict(kept)


def check_fits(model: nn.Module, checkpoint: dict[str, Any], path: str | Path) -> None:
    """Compares keys and shapes before anything is overwritten.

    Args:
        model: What the weights are meant for.
        checkpoint: From `read_checkpoint`.
        path: For the message.

    Raises:
        ValueError: If they do not fit, or hold NaN or infinity.
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
                f"{path} is unusable: {name} holds NaN or infinity, as a training that diverged"
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
    task = build_task(model_config(checkpoint), path, trust, checkpoint["state_dict"])
    check_fits(task, checkpoint, path)
    task.load_state_dict(checkpoint["state_dict"])
    return task.eval()


def build_task(
    model: dict[str, Any],
    path: str | Path,
    trust: str | Sequence[str] | None = None,
    weights: dict[str, Tensor] | None = None,
) -> Task:
    """Builds a task as a checkpoint describes it, its weights still to be filled in.

    Args:
        model: `class_path` and `init_args`, as in YAML.
        path: The checkpoint, for messages.
        trust: Packages beside segbench whose classes may be built.
        weights: What is meant to fill it; the task must not be many times larger.

    Returns:
        The task.

    Raises:
        ValueError: If the configuration is not understood, or names code that is not trusted.
    """
    model = check_trust(plain(model, path), path, trust)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Task, "model")
    try:
        names = vouched(model, trust)
        with imports_from(names), skip_pretrained_weights():
            config = parser.parse_object({"model": deepcopy(model)})  # it writes into what it parses
            check_parsed(config, path, names)
            check_classes(config.model)
            if weights is not None and not names:
                build_like(weights, path, model, lambda: parser.instantiate(config).model)
            task: Task = parser.instantiate(config).model
    except Exception as error:  # the file may hold any numbers, and any of them may be wrong
        raise ValueError(f"{path}: its model cannot be built: {readable(error)}") from error
    return task

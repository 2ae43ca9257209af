"""Suggestions for misspelled options and classes, and for the option names of other tools."""

import difflib
import inspect
import pkgutil
import sys
from collections.abc import Collection, Iterable, Sequence
from importlib import import_module
from typing import Any

# Packages whose classes YAML can refer to by name.
COMPONENT_PACKAGES = ("tasks", "encoders", "necks", "decoders", "losses", "optim", "postprocess", "data")
_SHOWN = 12  # names in a message

# Our options by their names in other tools.
_FOREIGN = {
    "lr": "--model.init_args.optimizer.init_args.lr",
    "learning_rate": "--model.init_args.optimizer.init_args.lr",
    "weight_decay": "--model.init_args.optimizer.init_args.weight_decay",
    "wd": "--model.init_args.optimizer.init_args.weight_decay",
    "momentum": "--model.init_args.optimizer.init_args.momentum",
    "backbone": "--model.init_args.encoder",
    "scheduler": "--model.init_args.schedule",
    "warmup": "--model.init_args.schedule.init_args.warmup_steps",
    "warmup_steps": "--model.init_args.schedule.init_args.warmup_steps",
    "pretrained": "--model.init_args.encoder.init_args.pretrained",
    "model_name": "--model.init_args.encoder.init_args.model_name",
    "bs": "--data.init_args.batch_size",
    "workers": "--data.init_args.num_workers",
    "data_dir": "--data.init_args.root",
    "data_root": "--data.init_args.root",
    "data_path": "--data.init_args.root",
    "dataset": "--data",
    "root": "--data.init_args.root",
    "imgsz": "--data.init_args.img_size",
    "image_size": "--data.init_args.img_size",
    "crop_size": "--data.init_args.img_size",
    "num_classes": "--data.init_args.classes",
    "steps": "--trainer.max_steps",
    "iters": "--trainer.max_steps",
    "max_iters": "--trainer.max_steps",
    "epochs": "--trainer.max_epochs",
    "num_epochs": "--trainer.max_epochs",
    "gpus": "--trainer.devices",
    "gpu": "--trainer.accelerator gpu",
    "device": "--trainer.accelerator",
    "cpu": "--trainer.accelerator cpu",
    "nodes": "--trainer.num_nodes",
    "fp16": "--trainer.precision 16-mixed",
    "amp": "--trainer.precision 16-mixed",
    "half": "--trainer.precision 16-mixed",
    "bf16": "--trainer.precision bf16-mixed",
    "seed": "--seed_everything",
    "random_seed": "--seed_everything",
    "wandb": "--logger wandb",
    "tensorboard": "--logger tensorboard",
    "log_dir": "--runs_dir",
    "out_dir": "--runs_dir",
    "output": "--runs_dir",
    "output_dir": "--runs_dir",
    "save_dir": "--runs_dir",
    "work_dir": "--runs_dir",
    "name": "--experiment",
    "exp_name": "--experiment",
    "run_name": "--run_id",
    "resume_from": "--resume RUN",
    "resume_from_checkpoint": "--resume RUN",
    "load_from": "--init-from CKPT",
    "weights": "--checkpoint CKPT",
    "ckpt": "--checkpoint CKPT",
    "cfg": "--config",
    "yaml": "--config",
}


def close_matches(word: str, names: Iterable[str], most: int = 3) -> list[str]:
    """Returns the names that a misspelled word probably means.

    Args:
        word: The word.
        names: Valid names.
        most: Largest number of names to return.

    Returns:
        The closest first: names that differ only in case and punctuation, or that contain the word, before
            names
        with other letters.
    """
    plain = {name: _normalize(name) for name in names}
    target = _normalize(word)
    if same := [name for name, spelled in plain.items() if spelled == target]:
        return same[:most]
    if len(target) >= 3:
        prefix = [name for name, spelled in plain.items() if spelled.startswith(target)]
        if inside := prefix or [name for name, spelled in plain.items() if target in spelled]:
            return sorted(inside, key=len)[:most]
    close = difflib.get_close_matches(target, list(plain.values()), n=most, cutoff=0.65)
    return list(dict.fromkeys(next(name for name in plain if plain[name] == one) for one in close))[:most]


def did_you_mean(word: str, names: Collection[str], what: str) -> str:
    """Suggests the names closest to a word, or else lists all.

    Args:
        word: The misspelled word.
        names: Valid names.
        what: Noun for the names, in the plural.

    Returns:
        The second half of a message.
    """
    if close := close_matches(word, names):
        return f"did you mean {' or '.join(close)}?"
    if not names:
        return f"no {what} are known here"
    shown = sorted(names)
    return f"{what} are {', '.join(shown[:_SHOWN])}{', …' if len(shown) > _SHOWN else ''}"


def option_hint(option: str, options: Collection[str]) -> str:
    """Suggests the option that an unknown one probably means.

    Args:
        option: Dotted, without `--`.
        options: Dotted names of all options.

    Returns:
        The second half of a message; empty if no option is similar.
    """
    option = option.replace("-", "_")
    prefix, _, leaf = option.rpartition(".")
    siblings = [name for name in options if prefix and name.rpartition(".")[0] == prefix]
    if close := close_matches(leaf, [name.rpartition(".")[2] for name in siblings], 2):
        return f"did you mean {' or '.join(f'--{prefix}.{name}' for name in close)}?"
    if foreign := _foreign(leaf, options):
        return f"did you mean {foreign}?"
    by_leaf = [name for name in options if name.rpartition(".")[2] == leaf]
    close = by_leaf or close_matches(option, options, 2)
    return f"did you mean {' or '.join(f'--{name}' for name in close[:3])}?" if close else ""


def _foreign(leaf: str, options: Collection[str]) -> str:
    """Returns our name of another tool's option, starting at a level of the given options; empty if unknown."""
    tops = {name.partition(".")[0] for name in options}
    parts = _FOREIGN.get(leaf, "").lstrip("-").split(".")
    for begin in range(len(parts)):
        if parts[begin].split(" ")[0] in tops:
            return f"--{'.'.join(parts[begin:])}"
    return ""


def import_components() -> None:
    """Imports all tasks, components and datasets, so that YAML can name their classes without the module."""
    for name in COMPONENT_PACKAGES:
        package = import_module(f"segbench.{name}")
        for file in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            import_module(file.name)


def class_names(kinds: Sequence[type]) -> dict[str, type]:
    """Returns the concrete subclasses of some base classes that have been imported.

    Args:
        kinds: Base classes, which are not included.

    Returns:
        By name; of two classes with the same name the one defined first.
    """
    found: dict[str, type] = {}
    queue = list(kinds)
    while queue:
        cls = queue.pop(0)
        queue += cls.__subclasses__()
        public = not cls.__name__.startswith("_") and "<locals>" not in cls.__qualname__
        if public and not inspect.isabstract(cls) and cls not in kinds:
            found.setdefault(cls.__name__, cls)
    return found


def component_options() -> dict[str, bool]:
    """Returns the options of all imported components by name, with whether each is a boolean in one of them."""
    found: dict[str, bool] = {}
    for name, module in [*sys.modules.items()]:
        if (
            name.split(".")[:1] == ["segbench"]
            and name.split(".")[1:2]
            and name.split(".")[1] in COMPONENT_PACKAGES
        ):
            for _, cls in inspect.getmembers(module, inspect.isclass):
                if cls.__module__ == name:
                    for option, default in init_defaults(cls).items():
                        found[option] = found.get(option, False) or isinstance(default, bool)
    return found


def init_options(cls: type) -> list[str]:
    """Returns the names of the options of a class, including those it passes on to its bases.

    Args:
        cls: Any class.
    """
    return list(init_defaults(cls))


def init_defaults(cls: type) -> dict[str, Any]:
    """Returns the options of a class, including those it passes on to its bases, with their defaults.

    Args:
        cls: Any class.

    Returns:
        Defaults by name; `inspect.Parameter.empty` for required options.
    """
    found: dict[str, Any] = {}
    for base in cls.__mro__:
        own = base.__dict__.get("__init__")
        if own is None:
            continue
        parameters = list(inspect.signature(own).parameters.values())[1:]
        kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        found = {p.name: p.default for p in parameters if p.kind in kinds} | found
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return found


def _normalize(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "").replace(" ", "")

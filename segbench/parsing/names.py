"""Near names: of options, of classes, and of what other tools call an option."""

import difflib
import inspect
import pkgutil
from collections.abc import Collection, Iterable, Sequence
from importlib import import_module
from typing import Any

# Packages whose classes YAML may name.
COMPONENT_PACKAGES = ("tasks", "encoders", "necks", "decoders", "losses", "optim", "postprocess", "data")
_SHOWN = 12  # names in a message

# What other tools call our options, by their last part.
_ELSEWHERE = {
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


def near(word: str, names: Iterable[str], most: int = 3) -> list[str]:
    """Finds what a word was probably meant to be.

    Args:
        word: As it was written.
        names: What there is.
        most: How many at most.

    Returns:
        The nearest first: names that differ in case and punctuation alone, or that contain the word, before
        names with other letters.
    """
    plain = {name: _plain(name) for name in names}
    wanted = _plain(word)
    if same := [name for name, spelled in plain.items() if spelled == wanted]:
        return same[:most]
    if len(wanted) >= 3:
        begun = [name for name, spelled in plain.items() if spelled.startswith(wanted)]
        if inside := begun or [name for name, spelled in plain.items() if wanted in spelled]:
            return sorted(inside, key=len)[:most]
    close = difflib.get_close_matches(wanted, list(plain.values()), n=most, cutoff=0.65)
    return list(dict.fromkeys(next(name for name in plain if plain[name] == one) for one in close))[:most]


def did_you_mean(word: str, names: Collection[str], what: str) -> str:
    """Writes the near names of a word, or else all there are.

    Args:
        word: As it was written.
        names: What there is.
        what: What they are, in the plural.

    Returns:
        The second half of a message.
    """
    if close := near(word, names):
        return f"did you mean {' or '.join(close)}?"
    if not names:
        return f"there are no {what} here"
    shown = sorted(names)
    return f"{what} are {', '.join(shown[:_SHOWN])}{', …' if len(shown) > _SHOWN else ''}"


def option_hint(option: str, options: Collection[str]) -> str:
    """Finds the option that a wrong one was meant to be.

    Args:
        option: Dotted, without `--`.
        options: Dotted names of all that there are.

    Returns:
        The second half of a message; empty if nothing is near.
    """
    option = option.replace("-", "_")
    begun, _, leaf = option.rpartition(".")
    there = [name for name in options if begun and name.rpartition(".")[0] == begun]
    if close := near(leaf, [name.rpartition(".")[2] for name in there], 2):
        return f"did you mean {' or '.join(f'--{begun}.{name}' for name in close)}?"
    if elsewhere := _elsewhere(leaf, options):
        return f"did you mean {elsewhere}?"
    by_leaf = [name for name in options if name.rpartition(".")[2] == leaf]
    close = by_leaf or near(option, options, 2)
    return f"did you mean {' or '.join(f'--{name}' for name in close[:3])}?" if close else ""


def _elsewhere(leaf: str, options: Collection[str]) -> str:
    """Finds our name of another tool's option, as far as it lies below what there is."""
    tops = {name.partition(".")[0] for name in options}
    parts = _ELSEWHERE.get(leaf, "").lstrip("-").split(".")
    for begin in range(len(parts)):
        if parts[begin].split(" ")[0] in tops:
            return f"--{'.'.join(parts[begin:])}"
    return ""


def import_components() -> None:
    """Imports every task, part and dataset of this package, so that their names are known without a module."""
    for room in COMPONENT_PACKAGES:
        package = import_module(f"segbench.{room}")
        for file in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            import_module(file.name)


def class_names(kinds: Sequence[type]) -> dict[str, type]:
    """Lists the classes that can be built where one of some kinds is asked for.

    Args:
        kinds: Contracts.

    Returns:
        By name; of two with one name the first that was defined.
    """
    found: dict[str, type] = {}
    waiting = list(kinds)
    while waiting:
        cls = waiting.pop(0)
        waiting += cls.__subclasses__()
        public = not cls.__name__.startswith("_") and "<locals>" not in cls.__qualname__
        if public and not inspect.isabstract(cls) and cls not in kinds:
            found.setdefault(cls.__name__, cls)
    return found


def init_options(cls: type) -> list[str]:
    """Names what can be set of a class, that which it hands on to its bases included.

    Args:
        cls: Any.
    """
    return list(init_defaults(cls))


def init_defaults(cls: type) -> dict[str, Any]:
    """Finds what can be set of a class, as `init_options` does, and to what it is set where nothing is said.

    Args:
        cls: Any.

    Returns:
        By name; `inspect.Parameter.empty` where a value must be given.
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


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "").replace(" ", "")

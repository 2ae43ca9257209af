"""Which code a checkpoint may name. Its class paths make Python import modules and build objects.

A stranger's file may ask for segbench's own classes, for optimisers of torch and for transforms of
albumentations, which `segbench fit` writes into every checkpoint; for nothing else, until the user names the
package. Paths are judged by their names before anything is imported, and by what they lead to afterwards:
`segbench.atomic.Path` leads out of segbench.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from pydoc import locate
from typing import Any

import yaml
from jsonargparse import Namespace

# What of other packages a checkpoint of `segbench fit` names: the optimiser, and transforms of training images.
TRUSTED = ("segbench", "torch.optim", "albumentations")
# Arguments, of tasks and of data modules, that are classes: there jsonargparse takes a bare string for a path.
JOINTS = (
    "encoder",
    "necks",
    "decoder",
    "losses",
    "optimizer",
    "schedule",
    "postprocess",
    "train_transforms",
)
TRUST_VARIABLE = "SEGBENCH_TRUST"
_CLASS_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def check_trust(
    config: Any, path: str | Path, trust: str | Sequence[str] | None = None, *, foreign: bool = False
) -> None:
    """Refuses a configuration from a checkpoint that names code from anywhere but known packages.

    Args:
        config: The configuration, or a part of it.
        path: The checkpoint, for the message.
        trust: Further packages or modules; those in the environment variable `SEGBENCH_TRUST` are added.
        foreign: Whether this part configures a class of torch or albumentations. Some of those take functions
            by name (`read_fn` of albumentations' domain adaptation), so dotted names are refused there.

    Raises:
        ValueError: If a class is none of segbench's, torch's optimisers or albumentations, and its package is
            not trusted; or it is no class.
    """
    allowed = trusted(trust)
    if isinstance(config, dict):
        named = [config["class_path"]] if "class_path" in config else []
        named += [part for key in JOINTS for part in _as_list(config.get(key)) if isinstance(part, str)]
        for name in named:
            _check_class(name, path, allowed)
        if "class_path" in config:
            foreign = _package(str(config["class_path"]), TRUSTED[1:]) is not None
        for value in config.values():
            if value not in named:
                check_trust(value, path, allowed, foreign=foreign)
    elif isinstance(config, (list, tuple)):
        for value in config:
            check_trust(value, path, allowed, foreign=foreign)
    elif isinstance(config, str):
        if foreign and _DOTTED.fullmatch(config):
            raise ValueError(f"{path} hands {config} to a class of another package, which might import it")
        # jsonargparse reads lists and dictionaries out of strings as well.
        if any(sign in config for sign in "{[:\n"):
            check_trust(_parsed(config), path, allowed, foreign=foreign)


def trusted(trust: str | Sequence[str] | None) -> tuple[str, ...]:
    """Lists the packages that the user vouches for.

    Args:
        trust: Names of packages or modules, one or several.

    Returns:
        These, and those in the environment variable `SEGBENCH_TRUST`.
    """
    named = [trust] if isinstance(trust, str) else list(trust or [])
    return tuple(dict.fromkeys([*named, *os.environ.get(TRUST_VARIABLE, "").split()]))


def read_names(written: Sequence[str]) -> list[str]:
    """Reads `--trust` as all verbs take it: `my_package`, or several as `[one, other]`.

    Args:
        written: What stood behind each `--trust`.

    Returns:
        Names of packages.
    """
    return [name for text in written for name in re.split(r"[\[\],\s'\"]+", text) if name]


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


def _check_class(name: Any, path: str | Path, allowed: tuple[str, ...]) -> None:
    if not isinstance(name, str) or not _CLASS_PATH.fullmatch(name):
        raise ValueError(f"{path} is damaged: where a class is to be named it has {str(name)[:80]!r}")
    package = _package(name, (*TRUSTED, *allowed))
    if package is None:
        raise ValueError(
            f"{path} is built with {name}, which is none of segbench's; "
            f"if you know the file, allow it by --trust {name.partition('.')[0]} (trust=[…] in Python)"
        )
    found = locate(name)
    if not isinstance(found, type):
        raise ValueError(f"{path} is built with {name}, which is no class that is known here")
    if package in TRUSTED and _package(found.__module__, (package,)) is None:
        raise ValueError(f"{path} is built with {name}, which leads out of {package} to {found.__module__}")


def _package(name: str, packages: Sequence[str]) -> str | None:
    """Finds the package or module that a dotted name lies in."""
    return next((one for one in packages if name == one or name.startswith(f"{one}.")), None)


def _parsed(text: str) -> Any:
    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError):
        return None
    return found if isinstance(found, (dict, list)) else None


def _as_list(value: Any) -> list[Any]:
    if isinstance(value, (list, tuple)):
        return list(value)
    return [] if value is None else [value]

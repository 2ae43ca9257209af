"""Which code a checkpoint may name. Its class paths make Python import modules and build objects.

A stranger's file may ask for segbench's parts, for optimisers of torch and for transforms of albumentations;
for nothing else, until the user names the package. Three checks stand behind one another:

1. `check_trust` takes the configuration apart before jsonargparse sees it, and lets one spelling through: plain
   keys, and classes under `class_path`. Each class is judged by its name before anything is imported, and
   afterwards by what the name leads to: `segbench.utils.files.Path` leads out of segbench.
2. `imports_from` has jsonargparse refuse to import anything else, whichever way it should come to a name.
3. `check_parsed` looks at what jsonargparse made of it, before anything is built.
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from functools import partial
from pathlib import Path
from pydoc import ErrorDuringImport, locate
from typing import Any

import jsonargparse
import yaml
from jsonargparse import Namespace, _common

from segbench.utils.plain import check_limits, load_yaml
from segbench.utils.printable import printable

# What a checkpoint of `segbench fit` names, by package: each class must derive from one of these.
TRUSTED = {
    "segbench": (
        "segbench.tasks.base.Task",
        "segbench.data.base.SegmentationDataModule",
        "segbench.encoders.base.Encoder",
        "segbench.necks.base.Neck",
        "segbench.decoders.base.Decoder",
        "segbench.losses.base.Loss",
        "segbench.optim.schedules.Schedule",
        "segbench.postprocess.base.PostProcessor",
        "albumentations.core.transforms_interface.BasicTransform",
    ),
    "torch.optim": ("torch.optim.optimizer.Optimizer",),
    "albumentations": (
        "albumentations.core.transforms_interface.BasicTransform",
        "albumentations.core.composition.BaseCompose",
    ),
}
# What the configuration of a whole run names beside.
TRAINER = {
    "segbench": (*TRUSTED["segbench"], "lightning.pytorch.callbacks.callback.Callback"),
    "lightning": (
        "lightning.pytorch.callbacks.callback.Callback",
        "lightning.pytorch.loggers.logger.Logger",
        "lightning.pytorch.profilers.profiler.Profiler",
        "lightning.pytorch.strategies.strategy.Strategy",
        "lightning.pytorch.accelerators.accelerator.Accelerator",
        "lightning.pytorch.plugins.precision.precision.Precision",
    ),
}
# Arguments, of tasks and of data modules, that are classes: there jsonargparse takes a bare string for a path.
CLASS_ARGUMENTS = (
    "encoder",
    "necks",
    "decoder",
    "losses",
    "optimizer",
    "schedule",
    "postprocess",
    "train_transforms",
)
# Arguments of the trainer for which it knows short words of its own, or takes a class.
_WORDS = ("callbacks", "logger", "plugins", "strategy", "profiler", "accelerator")
TRUST_VARIABLE = "SEGBENCH_TRUST"
_CLASS_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_SPEC = {"class_path", "init_args", "dict_kwargs"}


def check_trust(
    config: Any,
    path: str | Path,
    trust: str | Sequence[str] | None = None,
    packages: dict[str, tuple[str, ...]] | None = None,
) -> Any:
    """Refuses a configuration that names code from anywhere but known packages.

    Args:
        config: The configuration, or a part of it, as `segbench.utils.plain` gives it.
        path: The checkpoint, for the message.
        trust: Further packages or modules; those in the environment variable `SEGBENCH_TRUST` are added.
        packages: Known ones, as `TRUSTED` has them.

    Returns:
        The same, every class spelled as a dictionary with `class_path`.

    Raises:
        ValueError: If a class is none of segbench's, torch's optimisers or albumentations, and its package is
            not trusted; if it is not a class, or of another kind; or if it is spelled in any other way.
    """
    return _Check(path, trusted(trust), packages or TRUSTED).tree(config)


def check_run_trust(config: Any, path: str | Path, trust: str | Sequence[str] | None = None) -> None:
    """Does the same with the whole configuration of a run, callbacks and loggers included.

    Args:
        config: As `config.yaml` has it.
        path: For the message.
        trust: As for `check_trust`.

    Raises:
        ValueError: As `check_trust`.
    """
    if not isinstance(config, dict) or not all(
        isinstance(config.get(key), dict) for key in ("model", "data", "trainer")
    ):
        raise ValueError(f"{path} is not a configuration of a run: model, data or trainer is none")
    if "config" in config:
        raise ValueError(f"{path} is refused: it names another configuration, {printable(config['config'])}")
    check = _Check(path, trusted(trust), TRUSTED | TRAINER)
    check.tree({key: value for key, value in config.items() if key != "trainer"})
    check.tree(config["trainer"], foreign=True)


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


def vouched(config: Any, trust: str | Sequence[str] | None = None) -> tuple[str, ...]:
    """Lists what the user vouches for by trusting packages, whose classes may be defined elsewhere.

    Args:
        config: From `check_trust`.
        trust: As for `check_trust`.

    Returns:
        Names of packages, modules and classes, as `trust` takes them.
    """
    own = trusted(trust)
    found = [locate(name) for name in _named(config) if _package(name, own)]
    return (*own, *(f"{one.__module__}.{one.__qualname__}" for one in found if isinstance(one, type)))


@contextmanager
def imports_from(names: Sequence[str]) -> Iterator[None]:
    """Lets jsonargparse import from known packages alone, whatever it is given.

    Args:
        names: Of further packages, modules or classes, from `vouched`.
    """
    allowed = [name for name in (*TRUSTED, *names) if _CLASS_PATH.fullmatch(name)]
    kept = dict(_common.parsing_settings)
    jsonargparse.set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=allowed)
    try:
        yield
    finally:
        _common.parsing_settings.update(kept)


def check_parsed(parsed: Any, path: str | Path, trust: str | Sequence[str] | None = None) -> None:
    """Checks what jsonargparse made of a configuration, before anything is built from it.

    Args:
        parsed: From its parser.
        path: The checkpoint, for the message.
        trust: As for `check_trust`.

    Raises:
        ValueError: If it holds functions or objects, or a class that is not trusted.
    """
    check = _Check(path, trusted(trust), TRUSTED)
    stack = [parsed]
    while stack:
        value = stack.pop()
        if isinstance(value, (Namespace, dict)):
            entries = dict(value.items(branches=True, nested=False)) if isinstance(value, Namespace) else value
            if "class_path" in entries:
                check.class_named(entries["class_path"])
            stack.extend(entry for key, entry in entries.items() if key != "class_path")
        elif isinstance(value, (list, tuple, set, frozenset)):
            stack.extend(value)
        elif isinstance(value, type):  # a default
            check.class_named(f"{value.__module__}.{value.__qualname__}")
        elif not (value is None or isinstance(value, (str, bool, int, float, Path, Enum))):
            raise ValueError(f"{path} hands a {type(value).__name__} over where plain values belong")


def check_classes(model: Namespace) -> None:
    """Refuses functions where classes belong: jsonargparse would call them.

    Args:
        model: The parsed configuration of a task, before anything is built from it.

    Raises:
        ValueError: If an argument of the task that takes a class is anything but a class.
    """
    for argument in CLASS_ARGUMENTS:
        for part in _as_list(model.get(f"init_args.{argument}")):
            name = part.class_path if isinstance(part, Namespace) and "class_path" in part else part
            if not isinstance(locate(name) if isinstance(name, str) else name, type):
                raise ValueError(f"{argument}: {name} is not a class")


class _Check:
    """Walks one configuration."""

    def __init__(
        self, path: str | Path, allowed: tuple[str, ...], packages: dict[str, tuple[str, ...]]
    ) -> None:
        self.path = path
        self.allowed = allowed
        self.packages = packages

    def tree(self, value: Any, *, foreign: bool = False, is_class: bool = False) -> Any:
        """Checks a part.

        Args:
            value: The part.
            foreign: Whether it configures a class of another package that is known. Some of those take
                functions by name (`read_fn` of albumentations' domain adaptation): no dotted names there.
            is_class: Whether the value is that of an argument that takes a class.
        """
        if isinstance(value, list):
            return [self.tree(entry, foreign=foreign, is_class=is_class) for entry in value]
        if isinstance(value, dict):
            if _SPEC & value.keys():
                return self._spec(value)
            return {
                key: self.tree(entry, foreign=foreign or key in _WORDS, is_class=key in CLASS_ARGUMENTS)
                for key, entry in value.items()
            }
        if isinstance(value, str):
            if is_class:
                self.class_named(value)
                return {"class_path": value}
            self._text(value, foreign)
        return value

    def _spec(self, spec: dict[str, Any]) -> dict[str, Any]:
        """Checks a class and its arguments."""
        if odd := spec.keys() - _SPEC:
            raise ValueError(
                f"{self.path} is refused: beside class_path and init_args it has {printable(min(odd, key=str))}"
            )
        checked = {}
        foreign = False
        if "class_path" in spec:
            package = self.class_named(spec["class_path"])
            foreign = package in self.packages and package != "segbench"
            checked["class_path"] = spec["class_path"]
        for part in ("init_args", "dict_kwargs"):
            if part not in spec:
                continue
            options = spec[part]
            if not isinstance(options, dict) or not all(
                isinstance(key, str) and key.isidentifier() and key.isascii() for key in options
            ):
                raise ValueError(
                    f"{self.path} is refused: {part} of a class is not a dictionary of plain names"
                )
            if _SPEC & options.keys():
                raise ValueError(f"{self.path} is refused: {part} of a class name a class themselves")
            checked[part] = self.tree(options, foreign=foreign)
        return checked

    def class_named(self, name: Any) -> str | None:
        """Checks the name of a class, and then the class.

        Returns:
            The package it lies in.
        """
        if not isinstance(name, str) or not _CLASS_PATH.fullmatch(name):
            raise ValueError(
                f"{self.path} is damaged: where a class is to be named it has {printable(repr(name), 80)}"
            )
        package = _package(name, (*self.packages, *self.allowed))
        if package is None:
            raise ValueError(
                f"{self.path} is built with {printable(name)}, which is none of segbench's; "
                f"if you know the file, allow it by --trust {name.partition('.')[0]} (trust=[…] in Python)"
            )
        vouched = package not in self.packages or _package(name, self.allowed) is not None
        if not vouched and any(part.startswith("_") for part in name.split(".")):
            raise ValueError(f"{self.path} is built with {printable(name)}, which is not a known class")
        try:
            found = locate(name)
        except ErrorDuringImport as error:
            raise ValueError(f"{self.path} is built with {name}, which cannot be imported: {error}") from error
        if not isinstance(found, type):
            raise ValueError(f"{self.path} is built with {printable(name)}, which is not a known class")
        if not vouched:
            self._check_contract(name, found, package)
        return package

    def _check_contract(self, name: str, found: type, package: str) -> None:
        if _package(found.__module__, (package,)) is None:
            raise ValueError(
                f"{self.path} is built with {name}, which leads out of {package} to {found.__module__}"
            )
        bases = {f"{base.__module__}.{base.__qualname__}" for base in found.__mro__}
        if not bases & set(self.packages[package]):
            kinds = ", ".join(contract.rpartition(".")[2] for contract in self.packages[package])
            raise ValueError(f"{self.path} is built with {name}, which is none of {kinds}")

    def _text(self, text: str, foreign: bool) -> None:
        """Refuses text in which jsonargparse might find a class, a function or a file."""
        if foreign and _DOTTED.fullmatch(text):
            raise ValueError(f"{self.path} hands {text} to a class of another package, which might import it")
        if foreign and text and os.path.lexists(text) and not Path(text).is_dir():
            raise ValueError(f"{self.path} hands {printable(text)}, a file, to a class of another package")
        if any(sign in text for sign in "{[:\n"):
            stack, seen = _parsed(text, self.path), 0
            while stack:
                value = stack.pop()
                seen += 1
                check_limits(seen, 0, self.path)  # text of a few letters can claim 10^12 values by sharing
                if isinstance(value, dict):
                    if _SPEC & value.keys():
                        raise ValueError(f"{self.path} is refused: it hides a class in text, {printable(text)}")
                    stack.extend([*value.keys(), *value.values()])
                elif isinstance(value, (list, tuple, set)):
                    stack.extend(value)
                elif isinstance(value, str) and len(value) < len(text):
                    self._text(value, foreign)


def _parsed(text: str, path: str | Path) -> list[Any]:
    """Reads text in both ways in which jsonargparse does; JSON may hold tabs where YAML may not."""
    found = []
    for read, errors in ((partial(load_yaml, source=path), yaml.YAMLError), (json.loads, json.JSONDecodeError)):
        try:
            found.append(read(text))
        except RecursionError:
            raise ValueError(f"{path} is refused: its configuration holds text of too many levels") from None
        except errors:
            continue
    return found


def _named(config: Any) -> Iterator[str]:
    """Finds the class paths in a checked configuration."""
    if isinstance(config, dict):
        if isinstance(config.get("class_path"), str):
            yield config["class_path"]
        for value in config.values():
            yield from _named(value)
    elif isinstance(config, list):
        for value in config:
            yield from _named(value)


def _package(name: str, packages: Sequence[str]) -> str | None:
    """Finds the package or module that a dotted name lies in."""
    return next((one for one in packages if name == one or name.startswith(f"{one}.")), None)


def _as_list(value: Any) -> list[Any]:
    if isinstance(value, (list, tuple)):
        return list(value)
    return [] if value is None else [value]

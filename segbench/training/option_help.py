"""The classes of this package that YAML may name, and their options as a parser sees them.

LightningCLI's own help ends where classes are chosen in YAML; what can be set in them is what users look for.
"""

import argparse
import inspect
import pkgutil
import re
from importlib import import_module
from typing import NamedTuple

from jsonargparse import ArgumentParser

from segbench.checkpoints.trust import TRUSTED
from segbench.parsing.names import COMPONENT_PACKAGES, did_you_mean

# Set by the task where it builds a part, or by the CLI where it builds a task.
LINKED_ARGUMENTS = {
    "encoders": {"img_size"},
    "necks": {"info"},
    "decoders": {"info", "num_classes"},
    "losses": {"num_classes", "ignore_index"},
    "optim": {"optimizer", "total_steps"},
    "tasks": {"img_size", "num_classes", "class_names", "palette", "ignore_index"},
}


class Component(NamedTuple):
    """A class that YAML may name.

    Attributes:
        package: Last part of its package, as decoders.
        cls: The class.
    """

    package: str
    cls: type

    @property
    def path(self) -> str:
        """The dotted path, as YAML names it."""
        return f"{self.cls.__module__}.{self.cls.__qualname__}"

    @property
    def summary(self) -> str:
        """The first line of its docstring."""
        return (inspect.getdoc(self.cls) or "").partition("\n")[0]


def components() -> list[Component]:
    """Finds all classes that YAML may name; a new file in one of the packages is found without being listed."""
    found = []
    for package_name in COMPONENT_PACKAGES:
        package = import_module(f"segbench.{package_name}")
        for file in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            for _, cls in inspect.getmembers(import_module(file.name), inspect.isclass):
                if cls.__module__ == file.name and _is_chosen_in_yaml(cls):
                    found.append(Component(package_name, cls))
    # The one callback that is chosen in YAML; the others are always there.
    callback = import_module("segbench.callbacks.adaptive_class_weights").AdaptiveClassWeights
    return [*found, Component("callbacks", callback)]


def option_help() -> str:
    """Lists all classes that YAML may name, with their options, a section for each."""
    return "\n".join(f"\n{section(component)}" for component in components())


def find(name: str) -> list[Component]:
    """Finds components by name.

    Args:
        name: Of a class, its dotted path, a package such as decoders, or a file such as mean_shift.

    Returns:
        At least one component.

    Raises:
        ValueError: If there is none, with near names.
    """
    known = components()
    found = [
        one
        for one in known
        if name.lower()
        in (one.path.lower(), one.cls.__name__.lower(), one.package, one.cls.__module__.rpartition(".")[2])
    ]
    if not found:
        names = [one.cls.__name__ for one in known] + sorted({one.package for one in known})
        hint = did_you_mean(name, names, "names")
        raise ValueError(f"no component is called '{name}'; {hint}; `segbench options` lists them")
    return found


def section(component: Component) -> str:
    """Formats the options of one component.

    Args:
        component: As `find` returns it.

    Returns:
        Its dotted path, and a line or more for each option.
    """
    parser = ArgumentParser(add_help=False, usage=argparse.SUPPRESS)
    linked = LINKED_ARGUMENTS.get(component.package, set())
    parser.add_class_arguments(component.cls, "init_args", skip=set(linked), sub_configs=False)
    options = parser.format_help().strip().replace("--init_args.", "")
    # jsonargparse's own: a file for the group, and help on help.
    options = re.sub(r"^  (--init_args CONFIG|\S+\.help \[).*\n( {10,}.*\n)*", "", options, flags=re.MULTILINE)
    return f"{component.path}\n{options}\n"


def _is_chosen_in_yaml(cls: type) -> bool:
    """Returns the implementations of a package's contract from contracts and helpers."""
    package = cls.__module__.split(".")[1]
    paths = [path for path in TRUSTED["segbench"] if path.startswith(f"segbench.{package}.")]
    own = tuple(getattr(import_module(path.rpartition(".")[0]), path.rpartition(".")[2]) for path in paths)
    return not inspect.isabstract(cls) and issubclass(cls, own) and cls not in own

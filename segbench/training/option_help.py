"""The options of every task, part and dataset of this package, for `segbench fit --help`.

LightningCLI's own help ends where classes are chosen in the YAML; what can be set in them is what users seek.
"""

import argparse
import inspect
import pkgutil
import re
from importlib import import_module

from jsonargparse import ArgumentParser

from segbench.parsing.names import COMPONENT_PACKAGES

# What the task fills in when it builds a part, and the CLI when it builds a task.
LINKED_ARGUMENTS = {
    "encoders": {"img_size"},
    "necks": {"info"},
    "decoders": {"info", "num_classes"},
    "losses": {"num_classes", "ignore_index"},
    "optim": {"optimizer", "total_steps"},
    "tasks": {"img_size", "num_classes", "class_names", "palette", "ignore_index"},
}


def option_help() -> str:
    """Lists all classes that YAML may name, with their options.

    Returns:
        One section for each class; a new file in a room is found by itself.
    """
    sections = []
    for room in COMPONENT_PACKAGES:
        package = import_module(f"segbench.{room}")
        for file in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            for _, cls in inspect.getmembers(import_module(file.name), inspect.isclass):
                if cls.__module__ == file.name and _is_chosen_in_yaml(cls):
                    sections.append(_section(cls, LINKED_ARGUMENTS.get(room, set())))
    # The one callback that is chosen in YAML; the others come by themselves.
    sections.append(
        _section(import_module("segbench.callbacks.adaptive_class_weights").AdaptiveClassWeights, set())
    )
    return "\n".join(sections)


def _is_chosen_in_yaml(cls: type) -> bool:
    """Tells the implementations of a contract from contracts and helpers."""
    ancestors = [ancestor for ancestor in cls.__mro__[1:] if ancestor.__module__.startswith("segbench.")]
    contracts = [a for a in ancestors if inspect.isabstract(a) or a.__name__ == "SegmentationDataModule"]
    return not inspect.isabstract(cls) and bool(contracts) and contracts[0].__name__ != "Layout"


def _section(cls: type, filled_in: set[str]) -> str:
    parser = ArgumentParser(add_help=False, usage=argparse.SUPPRESS)
    parser.add_class_arguments(cls, "init_args", skip=set(filled_in), sub_configs=False)
    options = parser.format_help().strip().replace("--init_args.", "")
    # jsonargparse's own: a file for the group, and help on help.
    options = re.sub(r"^  (--init_args CONFIG|\S+\.help \[).*\n( {10,}.*\n)*", "", options, flags=re.MULTILINE)
    return f"\n{cls.__module__}.{cls.__qualname__}\n{options}\n"

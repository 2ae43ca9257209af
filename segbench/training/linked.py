"""What the data module decides for the task; given to the model as well, it would be ignored."""

import inspect
import sys
from typing import Any

from jsonargparse import Namespace

# Options of the data by which each is set, where the data module has one of them.
_OPTIONS = {
    "num_classes": ("classes", "num_classes"),
    "class_names": ("classes", "num_classes"),
    "ignore_index": ("ignore_index",),
    "img_size": ("img_size",),
    "palette": ("palette",),
}


def refuse_linked(config: Namespace) -> None:
    """Refuses options of the model that the data module decides.

    Args:
        config: Of a verb, parsed; a resolved config.yaml of an earlier run has none of these options.

    Raises:
        ValueError: If one is given, with the option of the data to set in its place.
    """
    task, data = _parameters(config.model.class_path), _parameters(config.data.class_path)
    for name, options in _OPTIONS.items():
        value = config.model.get(f"init_args.{name}")
        default = task[name].default if name in task else None
        if value is None or value == default:
            continue
        option = next((option for option in options if option in data), None)
        remedy = (
            f"set data.init_args.{option} in its place"
            if option
            else f"leave it out, since {config.data.class_path.rpartition('.')[2]} has a fixed one"
        )
        raise ValueError(f"model.init_args.{name} is {value!r:.60}, but the data module decides it: {remedy}")


def _parameters(class_path: str) -> Any:
    """Lists the parameters of a class that the parser has imported."""
    module, _, name = class_path.rpartition(".")
    found = getattr(sys.modules.get(module), name, None)
    return inspect.signature(found).parameters if callable(found) else {}

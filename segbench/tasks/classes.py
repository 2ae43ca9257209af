"""Classes of a checkpoint compared with those of the data: the same, the same in another order, or others."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from segbench.tasks.base import Task

_SHOWN = 8  # names that one line has room for
_RENAME = (
    "scores by id would mean nothing. Score on data of the same classes; where a class only has another name,"
    " give it the checkpoint's (for a folder by --data.init_args.classes)"
)
_RESUME = "resume on the data as they were, or begin another run with these weights by --init-from CKPT"


def trained_classes(checkpoint: Mapping[str, Any], path: str | Path) -> list[str] | None:
    """Reads the class names that a checkpoint was trained with.

    Args:
        checkpoint: From `segbench.checkpoints.reading.read_checkpoint`.
        path: Its file, for the message.

    Returns:
        In the order of the logits; None where the checkpoint has none, or only numbers them, as `segbench
        convert` does when nobody names them.

    Raises:
        ValueError: If they are something else than names.
    """
    names = checkpoint["hyper_parameters"].get("class_names")
    if names is None:
        return None
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path} is damaged: class_names is {names!r:.60}, not a list of names")
    numbered = [f"class {index}" for index in range(len(names))]
    return None if list(names) == numbered else list(names)


def class_order(trained: Sequence[str], here: Sequence[str], path: str | Path) -> list[int] | None:
    """Finds each class of the data among those of a checkpoint.

    Args:
        trained: Names in the order of the checkpoint's logits.
        here: Names in the order of the data's ids.
        path: The checkpoint, for the message.

    Returns:
        Index in `trained` of each name in `here`; None where the two lists are the same.

    Raises:
        ValueError: If the names are not the same ones.
    """
    if list(trained) == list(here):
        return None
    if sorted(trained) != sorted(here):
        told = differing(trained, here)
        raise ValueError(f"{path} was trained with other classes than the data have: {told}")
    return [trained.index(name) for name in here]


def match_classes(task: Task, checkpoint: Mapping[str, Any], path: str | Path, scoring: bool) -> str | None:
    """Lets a task that is scored with a checkpoint follow the order of classes in it.

    Args:
        task: Built for the data.
        checkpoint: From `segbench.checkpoints.reading.read_checkpoint`.
        path: Its file, for messages.
        scoring: Not to be trained any further.

    Returns:
        What to tell the user where the order is another one.

    Raises:
        ValueError: If the checkpoint has other classes than the data, or is to be trained in another order.
    """
    trained = trained_classes(checkpoint, path)
    if trained is None:
        return None
    try:
        order = class_order(trained, task.class_names, path)
    except ValueError as error:
        raise ValueError(f"{error}; {_RENAME if scoring else _RESUME}") from None
    told = "" if order is None else differing(trained, task.class_names)
    if told and not scoring:
        raise ValueError(f"{path} was trained with its classes in another order: {told}; {_RESUME}")
    task.predict_in_order(order, checkpoint["hyper_parameters"].get("palette", task.palette))
    if not told:
        return None
    return (
        f"classes in another order in {path}: {told}; predictions are mapped by name, so that scores and"
        " files have the order of the data"
    )


def differing(trained: Sequence[str], here: Sequence[str]) -> str:
    """Describes in one line where two lists of classes differ.

    Args:
        trained: The checkpoint's.
        here: The data's.

    Returns:
        Both lists, without the entries that are the same in both.
    """
    if sorted(trained) == sorted(here):
        places = [i for i, pair in enumerate(zip(trained, here, strict=True)) if pair[0] != pair[1]]
        first = f"from id {places[0]} on " if places[0] else ""
        theirs, ours = [trained[i] for i in places], [here[i] for i in places]
        return f"{first}[{_listed(theirs)}] in the checkpoint, [{_listed(ours)}] in the data"
    theirs = [name for name in trained if name not in here]
    ours = [name for name in here if name not in trained]
    numbers = f" ({len(trained)} classes there, {len(here)} here)" if len(trained) != len(here) else ""
    return (
        f"only the checkpoint has [{_listed(theirs)}], only the data have [{_listed(ours)}]{numbers}"
        if len({*theirs, *ours}) < len({*trained, *here})
        else f"[{_listed(theirs)}] in the checkpoint, [{_listed(ours)}] in the data{numbers}"
    )


def reordered(
    weights: Mapping[str, Tensor], axes: Mapping[str, int | None], order: Sequence[int]
) -> dict[str, Tensor]:
    """Puts the entries of class-dependent weights into the order of the data.

    Args:
        weights: By name.
        axes: Class axis of each weight that has one; None where it is not known.
        order: Of `class_order`.

    Returns:
        All weights; those without a class axis as they were.

    Raises:
        ValueError: If an axis is not known.
    """
    result = dict(weights)
    for name, axis in axes.items():
        if name not in weights:
            continue
        if axis is None:
            raise ValueError(f"the classes have no axis of their own in {name}")
        result[name] = weights[name].index_select(axis, weights[name].new_tensor(order).long())
    return result


def growing_axes(prefix: str, module: nn.Module, larger: nn.Module, num_classes: int) -> dict[str, int | None]:
    """Finds the weights whose size depends on the number of classes.

    Args:
        prefix: Of their names.
        module: Built for `num_classes` classes.
        larger: The same, built for one more.
        num_classes: `K`.

    Returns:
        Axis of size K that is one longer in `larger`, by name; None where a weight grows in another way.
    """
    sizes = {name: tuple(value.shape) for name, value in larger.state_dict().items()}
    axes: dict[str, int | None] = {}
    for name, value in module.state_dict().items():
        size = tuple(value.shape)
        if sizes.get(name) != size:
            grown = {
                (*size[:i], num_classes + 1, *size[i + 1 :]): i
                for i in range(len(size))
                if size[i] == num_classes
            }
            axes[f"{prefix}{name}"] = grown.get(sizes.get(name, ()))
    return axes


def check_data(task: Task, data: object) -> None:
    """Compares a task with the data module that a Python script gives its trainer.

    Args:
        task: As built or loaded.
        data: A data module, or None where the trainer has only loaders; one that names no classes passes.

    Raises:
        ValueError: If the data have other classes, another order of them, or another `ignore_index`.
    """
    names, ignore_index = getattr(data, "class_names", None), getattr(data, "ignore_index", task.ignore_index)
    if names is not None and task.class_names != list(names):
        raise ValueError(
            f"the model has other classes than the data: {differing(task.class_names, names)}; build"
            " the model with data.class_names, or score a checkpoint by `segbench test --checkpoint`, which"
            " maps another order by name"
        )
    if task.ignore_index != ignore_index:
        raise ValueError(
            f"ignore_index is {task.ignore_index} in the model and {ignore_index} in the data: build the"
            " model with data.ignore_index"
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f", … {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")

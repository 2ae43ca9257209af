"""Training that begins with the weights of another run, some parts fresh, the others frozen if wished.

Source: the three stages of the attention U-Net's code, https://github.com/dmitri-chouchkov/fashion-segmentation:
a plain bottleneck, then a fresh one of attention with all else frozen, then the whole.
"""

from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from segbench.checkpoints.reading import read_checkpoint
from segbench.tasks.base import Task
from segbench.tasks.classes import class_order, differing, reordered, trained_classes


class InitFromCheckpoint(L.Callback):
    """Fills the model before training. The CLI leaves that out where a run is resumed with its own weights."""

    def __init__(
        self, checkpoint: str | None = None, fresh: list[str] | None = None, freeze: bool = False
    ) -> None:
        """Takes the options.

        Args:
            checkpoint: Whose weights training starts from; null for those the model is built with.
            fresh: Modules that keep the weights they are built with, such as `decoder.bottleneck`; only they
                may differ from the checkpoint's.
            freeze: Train the fresh modules alone.

        Raises:
            ValueError: If all would be frozen.
        """
        if freeze and not fresh:
            raise ValueError("start.freeze would freeze every weight: name what is trained by start.fresh")
        self.checkpoint = checkpoint
        self.fresh = list(fresh or [])
        self.freeze = freeze

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Loads and freezes, before optimisers are built.

        Raises:
            ValueError: If a fresh module is none of the model's, or weights do not fit.
        """
        if stage != "fit":
            return
        for name in self.fresh:
            if not any(key.startswith(f"{name}.") for key in pl_module.state_dict()):
                raise ValueError(f"start.fresh: the model has no weights in '{name}'; try decoder.bottleneck")
        if self.checkpoint is not None:
            content = read_checkpoint(self.checkpoint)
            weights = content["state_dict"]
            if isinstance(pl_module, Task):
                weights = in_order_of(pl_module, content, self.fresh, self.checkpoint)
            fill(pl_module, weights, self.fresh, self.checkpoint)
        if self.freeze:
            for name, parameter in pl_module.named_parameters():
                parameter.requires_grad_(_is_in(name, self.fresh))


def in_order_of(task: Task, checkpoint: dict[str, Any], fresh: list[str], path: str) -> dict[str, Tensor]:
    """Puts the weights of a checkpoint into the order of the task's classes.

    Args:
        task: To be filled.
        checkpoint: From `read_checkpoint`.
        fresh: Names of modules that are not filled.
        path: Of the checkpoint, for messages.

    Returns:
        By name.

    Raises:
        ValueError: If weights that depend on the classes are to be filled, and the classes are other ones.
    """
    weights: dict[str, Tensor] = checkpoint["state_dict"]
    trained = trained_classes(checkpoint, path)
    if trained is None or trained == task.class_names:
        return weights
    axes = {name: axis for name, axis in task.class_axes().items() if not _is_in(name, fresh)}
    if not axes:
        return weights
    told = differing(trained, task.class_names)
    try:
        order = class_order(trained, task.class_names, path)
        if order is None:
            return weights
        weights = reordered(weights, axes, order)
    except ValueError:
        modules = ", ".join(_smallest({name.rpartition(".")[0] for name in axes}))
        raise ValueError(
            f"start.checkpoint: {path} was trained with other classes than the data have: {told}; to train what"
            f" depends on the classes from random weights, add --start.fresh '[{modules}]'"
        ) from None
    rank_zero_info(f"classes in another order in {path}: {told}; their weights are mapped by name")
    return weights


def _smallest(modules: set[str]) -> list[str]:
    """Leaves out modules that are part of others."""
    return sorted(one for one in modules if not any(one.startswith(f"{other}.") for other in modules))


def fill(model: nn.Module, weights: dict[str, Tensor], fresh: list[str], path: str) -> None:
    """Copies weights into a model and says how many.

    Args:
        model: All its weights are copied but those of fresh modules.
        weights: By name; those in fresh modules are not looked at.
        fresh: Names of modules.
        path: Where the weights come from, for messages.

    Raises:
        ValueError: If a weight is missing, left over, or of another shape.
    """
    ours = {name: value for name, value in model.state_dict().items() if not _is_in(name, fresh)}
    theirs = {name: value for name, value in weights.items() if not _is_in(name, fresh)}
    wrong = [
        *(name for name in sorted(ours.keys() ^ theirs.keys())),
        *(name for name in ours.keys() & theirs.keys() if ours[name].shape != theirs[name].shape),
    ]
    if wrong:
        raise ValueError(
            f"start.checkpoint: {path} differs from this model in {len(wrong)} weights, such as {wrong[0]}; "
            "name the modules that are to stay fresh by start.fresh, or use the configuration of that run"
        )
    model.load_state_dict(theirs, strict=False)  # what is missing was found out above
    new = sum(value.numel() for name, value in model.state_dict().items() if _is_in(name, fresh))
    rank_zero_info(
        f"{sum(value.numel() for value in theirs.values()):,} weights from {path}; "
        + (f"{new:,} are fresh: {', '.join(fresh)}" if fresh else "none is fresh")
    )


def _is_in(name: str, modules: list[str]) -> bool:
    return any(name.startswith(f"{module}.") for module in modules)

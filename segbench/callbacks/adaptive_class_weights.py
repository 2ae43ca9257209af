"""Class weights that follow what the model predicts too much or too little of.

Source: the attention U-Net article, §4.2.1, whose author compared the mass of each label with that of its
predictions and set weights by hand. The rule `w ← w · (true / predicted)^α` within limits is ours; there is no
code of it.
"""

import math
from typing import Any, Protocol, runtime_checkable

import lightning as L
import torch
from torch import Tensor, distributed

from segbench.functional.bands import sum_over_bands
from segbench.functional.labels import split_labels, valid_share
from segbench.losses.base import Loss
from segbench.tasks.base import Task


@runtime_checkable
class Weighted(Protocol):
    """A loss whose classes can be weighted; None stands for ones."""

    class_weights: Tensor | None


class AdaptiveClassWeights(L.Callback):
    """Raises the weights of classes that are predicted too rarely and lowers those of the others.

    Starts from the weights in the YAML, and works on every loss that has an option `class_weights`. A class
    without a labelled pixel since the last update keeps its weight, and so does one whose weight is 0.
    """

    def __init__(
        self, exponent: float = 0.5, every_n_steps: int = 100, minimum: float = 0.1, maximum: float = 10.0
    ) -> None:
        """Checks the options.

        Args:
            exponent: `α`: 1 corrects the whole ratio at once, less is smoother, 0 leaves the weights alone.
            every_n_steps: Optimiser steps over which masses are added up before the weights change.
            minimum: Least weight.
            maximum: Greatest weight.

        Raises:
            ValueError: If an option is out of range.
        """
        if not 0 <= exponent < math.inf:
            raise ValueError(f"exponent must not be negative, or every mistake grows; got {exponent}")
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1; got {every_n_steps}")
        if not 0 < minimum <= maximum < math.inf:
            raise ValueError(f"minimum and maximum must be positive and in order; got {minimum} and {maximum}")
        self.exponent = exponent
        self.every_n_steps = every_n_steps
        self.minimum, self.maximum = minimum, maximum
        self._losses: list[Weighted] = []
        self._masses = torch.zeros(2, 0)  # (2, K): true and predicted since the last update, of all processes
        self._updated_step = 0
        self._restored: dict[str, Any] | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Finds the losses and gives ones to those without weights.

        Raises:
            ValueError: If there are none, or one starts outside the limits.
        """
        if stage != "fit":
            return
        self._losses = [m for m in pl_module.modules() if isinstance(m, Loss) and isinstance(m, Weighted)]
        if not self._losses or not isinstance(pl_module, Task):
            raise ValueError(
                "trainer.callbacks: AdaptiveClassWeights needs a loss with class_weights, such as "
                "segbench.losses.cross_entropy.CrossEntropy; add one to losses or leave the callback out"
            )
        for loss in self._losses:
            if loss.class_weights is None:
                loss.class_weights = torch.ones(pl_module.num_classes)
            for weight in loss.class_weights.tolist():
                if weight and not self.minimum <= weight <= self.maximum:
                    raise ValueError(
                        f"trainer.callbacks: AdaptiveClassWeights keeps weights from {self.minimum:g} to "
                        f"{self.maximum:g}, but class_weights of {type(loss).__name__} begin with {weight:g}; "
                        "change minimum and maximum, or the weights"
                    )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begins with nothing counted, or where the checkpoint stood.

        Raises:
            ValueError: If the checkpoint is of other losses.
        """
        weights = torch.stack([_weights(loss) for loss in self._losses])
        self._masses = weights.new_zeros(2, weights.shape[1])
        if self._restored is None:
            return
        restored = torch.tensor(self._restored["weights"]).to(weights)
        if restored.shape != weights.shape:
            raise ValueError(
                f"losses: {len(weights)} have class weights here, {len(restored)} in the checkpoint; "
                "list the same ones, or leave AdaptiveClassWeights out"
            )
        for loss, values in zip(self._losses, restored, strict=True):
            _weights(loss).copy_(values)
        self._masses = torch.tensor(self._restored["masses"]).to(weights)
        self._updated_step = self._restored["updated_step"]
        self._restored = None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Adds up masses, changes the weights when it is time, and logs them beside the losses."""
        if not isinstance(pl_module, Task):
            return
        masses = class_masses(outputs["prediction"].logits, outputs["label"], pl_module.ignore_index)
        # At once and not at the update, so that a checkpoint, which one process writes, holds those of all.
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(masses)
        self._masses += masses

        step = trainer.global_step
        if step % self.every_n_steps == 0 and step > self._updated_step:  # not again while gradients accumulate
            for loss in self._losses:
                weights = _weights(loss)
                weights.copy_(adapted(weights, self._masses, self.exponent, self.minimum, self.maximum))
            self._masses.zero_()
            self._updated_step = step
        interval = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set where mypy does not look
        if interval and step % interval == 0:  # in the rows of the losses
            for number, loss in enumerate(self._losses, start=1):
                prefix = "train/class_weight" if number == 1 else f"train/class_weight_{number}"
                named = zip(pl_module.class_names, _weights(loss).clone(), strict=True)
                pl_module.log_dict({f"{prefix}/{name}": value for name, value in named})

    def state_dict(self) -> dict[str, Any]:
        """Remembers weights and masses, as plain numbers."""
        return {
            "weights": [_weights(loss).tolist() for loss in self._losses],
            "masses": self._masses.tolist(),
            "updated_step": self._updated_step,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Recalls them, to be put in place when training starts."""
        self._restored = state_dict


def class_masses(logits: Tensor, label: Tensor, ignore_index: int) -> Tensor:
    """Measures how many pixels each class has, in truth and as predicted.

    Args:
        logits: `(B, K, h, w)`; a cell stands for as many pixels as are labelled in it.
        label: `(B, H, W)` integer classes.
        ignore_index: The label of pixels that do not count.

    Returns:
        `(2, K)` pixels, true and predicted.
    """
    num_classes, grid = logits.shape[1], (logits.shape[2], logits.shape[3])
    known, valid = split_labels(label, num_classes, ignore_index)
    true = torch.zeros(num_classes, device=label.device).index_add_(0, known.flatten(), valid.flatten().float())
    pixels = valid_share(label, ignore_index, grid) * (valid[0].numel() / (grid[0] * grid[1]))  # (B, h, w)

    def predicted(band: Tensor, rows: slice) -> Tensor:
        return torch.einsum("bkhw,bhw->k", band.softmax(1), pixels[:, rows].to(band.dtype))

    return torch.stack((true, sum_over_bands(logits, grid, predicted).to(true)))


def adapted(weights: Tensor, masses: Tensor, exponent: float, minimum: float, maximum: float) -> Tensor:
    """Computes `w · (true / predicted)^α` within limits.

    Args:
        weights: `(K,)`.
        masses: `(2, K)`, true and predicted.
        exponent: `α`.
        minimum: Least weight.
        maximum: Greatest weight.

    Returns:
        `(K,)`, unchanged where a class does not occur or has no weight.
    """
    true, predicted = masses
    moved = (weights * (true / predicted) ** exponent).clamp(minimum, maximum)
    return torch.where((true > 0) & (weights > 0), moved, weights)


def _weights(loss: Weighted) -> Tensor:
    if loss.class_weights is None:
        raise ValueError(
            f"class_weights of {type(loss).__name__} were taken away while AdaptiveClassWeights runs"
        )
    return loss.class_weights

"""Ends a training that has diverged."""

from typing import Any

import lightning as L
import torch
from torch import Tensor


class Divergence(L.Callback):
    """Looks whether the loss is still a number, as often as it is logged and before each validation.

    Weights that are not numbers any more never recover, and would replace those of `last.ckpt`. In half
    precision with scaled gradients such steps are skipped and nothing is lost: there nothing is done.
    """

    def __init__(self) -> None:
        self._loss: Tensor | None = None  # of the step before

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Looks every few steps, since looking waits for the device."""
        self._loss = outputs["loss"].detach()
        interval = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set where mypy does not look
        if interval and (batch_idx + 1) % interval == 0:
            self._look(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Looks before a checkpoint is due."""
        self._look(trainer)

    def _look(self, trainer: L.Trainer) -> None:
        if self._loss is None or trainer.precision == "16-mixed":
            return
        loss, self._loss = self._loss, None
        # All processes end together, whichever of them has seen it.
        if not trainer.strategy.reduce_boolean_decision(bool(torch.isfinite(loss)), all=True):
            raise ValueError(
                f"train/loss is {loss.item():g} at step {trainer.global_step}: the training has diverged; give "
                "a lower learning rate, or --trainer.gradient_clip_val 1. Checkpoints from before are whole"
            )

"""`checkpoints/best.ckpt` and `checkpoints/last.ckpt`, each of which says by itself what it is."""

import shutil
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from segbench import __version__
from segbench.callbacks.checkpoint_io import AtomicCheckpointIO
from segbench.utils.files import atomic_write, remove_drafts


class Checkpoints(Checkpoint):
    """Saves the state of the run.

    `last.ckpt` is written every few steps and after every validation, so that little is lost to a kill;
    `best.ckpt` whenever `val/miou` is higher than ever. A kill while writing leaves the previous one whole.
    Where a validation comes between the batches of one step, the gradients so far are saved as well.
    Whatever the intervals, the last weights are validated, once. With `fast_dev_run` nothing is saved.

    Attributes:
        best_score: Highest `val/miou` so far; None before the first validation.
    """

    def __init__(self, every_n_steps: int = 500) -> None:
        """Takes the interval.

        Args:
            every_n_steps: Optimiser steps between two saves of last.ckpt; 0 saves at validations only.
        """
        self.every_n_steps = every_n_steps
        self.best_score: float | None = None
        self._saved_step = 0
        self._due = False  # a validation after the step of the checkpoint
        self._validated_step: int | None = None  # whose weights were validated last
        self._gradients: dict[str, Tensor] = {}  # of a step that was under way as the run ended

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Has checkpoints written atomically, unless the user has chosen another way."""
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forgets a best score whose checkpoint is not here."""
        if trainer.is_global_zero:
            remove_drafts(_folder(trainer))  # which a kill left behind
        if not (_folder(trainer) / "best.ckpt").is_file():
            self.best_score = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restores the gradients of the step, and repeats the validation, in which a run was stopped."""
        for name, parameter in pl_module.named_parameters():
            if name in self._gradients:
                parameter.grad = self._gradients[name].to(parameter.device)
        self._gradients = {}
        if self._due:
            # Lightning takes a validation for done once the step before it is.
            _validate(trainer)
            # Else an epoch that it ends would never give way to the next.
            trainer.fit_loop.epoch_loop.val_loop._has_run = False

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves every few optimiser steps, and has the last one validated and logged."""
        step = trainer.global_step
        if _is_last(trainer):
            # As after early stopping: Lightning then validates and logs, whatever the intervals.
            trainer.should_stop = True
            if trainer.check_val_every_n_epoch is not None:
                trainer.check_val_every_n_epoch = 1
        if not self.every_n_steps or step % self.every_n_steps or step == self._saved_step:
            return
        # A validation that follows saves as it starts, and as due: a run killed between the two would skip it.
        loop = trainer.fit_loop
        if loop._data_fetcher is None or not loop.epoch_loop._should_check_val_fx(loop._data_fetcher):
            self._save(trainer, "last.ckpt")

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves before a validation, which may last long: a run that ends in its midst loses neither."""
        if not trainer.sanity_checking and trainer.state.fn == "fit" and not self._due:
            self._due = True
            self._save(trainer, "last.ckpt")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves what is best, then the same as last."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self._due = False
        self._validated_step = trainer.global_step
        if is_best(trainer):
            self.best_score = float(trainer.callback_metrics["val/miou"])
            # In this order: killed in between, the run resumes from before this validation.
            best = self._save(trainer, "best.ckpt")
            if trainer.is_global_zero and best.is_file():
                with atomic_write(best.with_name("last.ckpt"), durable=True) as draft:
                    shutil.copyfile(best, draft)
        else:
            self._save(trainer, "last.ckpt")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves the very last step, whatever the interval."""
        self.save_last(trainer)

    def finish(self, trainer: L.Trainer) -> None:
        """Validates the last weights, unless that was done; all processes must call it.

        Args:
            trainer: After its last step, also where a resumed run has none left.

        Raises:
            ValueError: If there was no step at all.
        """
        step = trainer.global_step
        if not step:
            raise ValueError(
                "nothing was trained: trainer.max_steps, max_epochs, max_time or limit_train_batches leaves no "
                "step; `segbench validate` scores a model as it is"
            )
        if step == self._validated_step or not trainer.enable_validation:
            return
        epoch_loop = trainer.fit_loop.epoch_loop
        epoch_loop.val_loop.restarting = False
        logged_step = epoch_loop._batches_that_stepped
        epoch_loop._batches_that_stepped = step - 1  # the scores belong in the row of the last step
        _validate(trainer)
        epoch_loop._batches_that_stepped = logged_step

    def save_last(self, trainer: L.Trainer) -> None:
        """Saves `last.ckpt`, unless it is of this step already; all processes must call it.

        Args:
            trainer: Between two optimiser steps.
        """
        if trainer.global_step != self._saved_step:
            self._save(trainer, "last.ckpt")

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Adds the gradients that accumulate for the next step; of several processes their mean."""
        if trainer.state.fn == "fit" and trainer.fit_loop.epoch_loop._should_accumulate():
            checkpoint["gradients"] = {
                name: trainer.strategy.reduce(parameter.grad.detach().clone(), reduce_op="mean")
                for name, parameter in pl_module.named_parameters()
                if parameter.grad is not None
            }

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Takes them from there."""
        self._gradients = checkpoint.get("gradients", {})

    def state_dict(self) -> dict[str, Any]:
        """Remembers the best score, and what was validated, across interruptions."""
        return {"best_score": self.best_score, "due": self._due, "validated_step": self._validated_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Recalls them; checkpoints of earlier versions know the score alone."""
        self.best_score = state_dict["best_score"]
        self._due = state_dict.get("due", False)
        self._validated_step = state_dict.get("validated_step")

    def _save(self, trainer: L.Trainer, name: str) -> Path:
        _log_step(trainer)
        path = _folder(trainer) / name
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]  # set where mypy does not look
            trainer.save_checkpoint(path, weights_only=False)
        self._saved_step = trainer.global_step
        return path


def is_best(trainer: L.Trainer) -> bool:
    """Returns whether the validation that just ended scored higher than all before it.

    The one rule by which checkpoint, ledger and `run.json` agree. Lightning calls checkpoint callbacks after
    all others, so that those who ask do so before the best score is raised.

    Args:
        trainer: While it fits.

    Returns:
        False where nothing was labelled (nan).
    """
    (keeper,) = (callback for callback in trainer.checkpoint_callbacks if isinstance(callback, Checkpoints))
    score = float(trainer.callback_metrics.get("val/miou", float("nan")))
    return score > (-1.0 if keeper.best_score is None else keeper.best_score)


def _log_step(trainer: L.Trainer) -> None:
    """Logs the step that just ended: Lightning does so after all callbacks, a kill between would lose it."""
    connector = trainer._logger_connector
    if trainer.training and connector._first_loop_iter is not None:
        connector.update_train_step_metrics()


def _is_last(trainer: L.Trainer) -> bool:
    """Returns whether the batch that just ended is the last one of the training."""
    epochs = trainer.max_epochs
    in_last_epoch = epochs is not None and epochs >= 0 and trainer.current_epoch + 1 >= epochs
    return 0 <= trainer.max_steps <= trainer.global_step or (in_last_epoch and trainer.is_last_batch)


def _validate(trainer: L.Trainer) -> None:
    trainer.validating = True
    trainer.fit_loop.epoch_loop.val_loop.run()
    trainer.training = True


def _folder(trainer: L.Trainer) -> Path:
    return Path(trainer.default_root_dir) / "checkpoints"


class SelfDescribing(L.Callback):
    """Writes the whole configuration into every checkpoint, so that `--checkpoint` needs nothing beside it."""

    def __init__(self, config: str, experiment: str) -> None:
        """Takes what is to be written.

        Args:
            config: The resolved configuration, as YAML.
            experiment: Its name.
        """
        self.config = config
        self.experiment = experiment

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Adds plain strings only: checkpoints load with `weights_only=True`."""
        checkpoint["segbench"] = {
            "version": __version__,
            "config": self.config,
            "experiment": self.experiment,
        }

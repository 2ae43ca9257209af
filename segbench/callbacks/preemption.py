"""Runs that are told to go save themselves first: SIGTERM, and SIGUSR1 as SLURM sends it before time is up.

Lightning has handlers of its own, which save in the middle of a step, or start a collective operation of which
the other processes know nothing. Here a signal is noted, and acted upon between two optimiser steps.
"""

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

import lightning as L

from segbench.callbacks.checkpoints import Checkpoints

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
STOPPED = os.EX_TEMPFAIL  # 75: the same command, given again, goes on; `experiments/slurm.sbatch` looks for it


class Preemption(L.Callback):
    """Saves `last.ckpt` after the step in which a signal came to any process, and ends all of them."""

    def __init__(self) -> None:
        self._signal: int | None = None  # that came to this process
        self._step = 0  # after which the processes last asked each other
        self._leaving = False  # as all of them know

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Listens from here on; the trainer puts back what was there before when it ends."""
        self._signal, self._step, self._leaving = None, trainer.global_step, False
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self._note)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Asks all processes after each optimiser step, and saves if one was told to go."""
        if trainer.global_step == self._step:
            return  # gradients accumulate: they would be lost
        self._step = trainer.global_step
        self._leaving = trainer.strategy.reduce_boolean_decision(self._signal is not None, all=False)
        if self._leaving:
            for keeper in trainer.checkpoint_callbacks:
                if isinstance(keeper, Checkpoints):
                    keeper.save_last(trainer)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Leaves before the next step.

        Raises:
            SystemExit: With status 75 in the first process and 0 in the others, which it may have launched.
        """
        if self._leaving:
            self._leave(trainer)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leaves before a validation, which the checkpoint knows to be due.

        Raises:
            SystemExit: As between training steps.
        """
        if self._leaving:
            self._leave(trainer)

    def on_validation_batch_start(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Leaves a validation at once: all of it is done anew.

        Raises:
            SystemExit: As between training steps.
        """
        if self._signal is not None:
            self._leave(trainer)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signal = number

    def _leave(self, trainer: L.Trainer) -> None:
        if trainer.is_global_zero:
            name = "a signal to another process" if self._signal is None else signal.Signals(self._signal).name
            print(
                f"segbench: stopped by {name} at step {trainer.global_step}; "
                f"`segbench fit --resume {trainer.default_root_dir}` goes on",
                file=sys.stderr,
            )
        raise SystemExit(STOPPED if trainer.is_global_zero else 0)

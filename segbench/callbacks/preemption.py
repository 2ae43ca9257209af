"""Runs that are told to stop save themselves first: by Ctrl-C, SIGTERM, or SIGUSR1 as SLURM sends it in time.

Lightning has handlers of its own, which save in the middle of a step, or start a collective operation of which
the other processes know nothing. Here a signal is noted, and acted upon between two optimiser steps.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L

from segbench.callbacks.checkpoints import Checkpoints
from segbench.utils.posix import STOP_SIGNALS, TEMPFAIL, stop_at_start

SIGNALS = (*STOP_SIGNALS, signal.SIGINT)
STOPPED = TEMPFAIL  # 75: the same command, given again, resumes; `experiments/slurm.sbatch` looks for it
INTERRUPTED = 128 + signal.SIGINT  # 130, as shells expect of what Ctrl-C ends; nobody queues it again
_LEAVING_S = 10.0  # for the other processes of this machine to end their loader workers
_FAILING_S = 2.0  # for one that has failed itself to say why


class Preemption(L.Callback):
    """Saves `last.ckpt` after the step in which a signal came to any process, and ends all of them."""

    def __init__(self) -> None:
        self._signal: int | None = None  # that came to this process
        self._first = True  # of all processes
        self._step = 0  # after which the processes last asked each other
        self._leaving = False  # as all of them know

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Listens from here on; the trainer puts back what was there before when it ends."""
        self._signal, self._step, self._leaving = None, trainer.global_step, False
        self._first = trainer.is_global_zero
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self._note)

    def on_sanity_check_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Ends at once where there is nothing to save; Lightning only notes a signal until it trains."""
        self._end_at_once(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Ends `segbench validate` at once; a validation within training is left to the hooks below."""
        if trainer.state.fn == "validate":
            self._end_at_once(trainer)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Ends `segbench test` at once."""
        self._end_at_once(trainer)

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Ends `segbench predict` at once."""
        self._end_at_once(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Says what is saved, and sees the processes end that Lightning launched beside this one.

        They may wait for this process in a collective operation that NCCL gives up after half an hour only.
        """
        leaving = isinstance(exception, SystemExit)  # the others as well, unless they are in a validation
        last = Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"
        if not leaving and trainer.state.fn == "fit" and trainer.is_global_zero and last.is_file():
            exception.add_note(f"`segbench fit --resume {trainer.default_root_dir}` resumes from {last}")
        launched: list[subprocess.Popen[bytes]] = getattr(trainer.strategy.launcher, "procs", [])
        others = list(launched)
        launched.clear()  # Lightning watches them, and would kill this process as well before it has said why
        deadline = time.monotonic() + (_LEAVING_S if leaving else _FAILING_S)
        for process in others:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
            process.kill()
            process.wait()

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
            SystemExit: With status 75, or 130 after Ctrl-C, in the first process and 0 in the others, which it
                may have launched.
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
        """Leaves a validation at once: all of it is repeated on resuming.

        Raises:
            SystemExit: As between training steps.
        """
        if self._signal is not None:
            self._leave(trainer)

    def _end_at_once(self, trainer: L.Trainer) -> None:
        fits, rank = trainer.state.fn == "fit", trainer.global_rank

        def end(number: int, _: FrameType | None) -> None:
            _ignore_stop_signals(trainer)
            if rank == 0:
                print(f"segbench: stopped by {signal.Signals(number).name}", file=sys.stderr)
            raise SystemExit(0 if rank else STOPPED if fits else 128 + number)

        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                signal.signal(number, end)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signal = number
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # once more ends it at once
            if self._first:  # not by print: the signal may have come while this very process was printing
                os.write(2, b"\nsegbench: saving after this step; Ctrl-C again stops at once\n")

    def _leave(self, trainer: L.Trainer) -> None:
        if self._signal != signal.SIGINT:
            _ignore_stop_signals(trainer)
        if not trainer.is_global_zero:
            raise SystemExit(0)
        name = "a signal to another process" if self._signal is None else signal.Signals(self._signal).name
        print(
            f"segbench: stopped by {name} at step {trainer.global_step}; "
            f"`segbench fit --resume {trainer.default_root_dir}` resumes",
            file=sys.stderr,
        )
        raise SystemExit(INTERRUPTED if self._signal == signal.SIGINT else STOPPED)


def _ignore_stop_signals(trainer: L.Trainer) -> None:
    """Keeps a second signal from killing a process that is about to end, which would cost it its status.

    Clusters send more than one, and Lightning puts back the handlers that it found long before the process has
    ended. Those of a program that calls segbench are left alone.
    """
    found = trainer._signal_connector._original_handlers
    for number in STOP_SIGNALS:
        if found.get(number) is stop_at_start:
            found[number] = signal.SIG_IGN
            signal.signal(number, signal.SIG_IGN)

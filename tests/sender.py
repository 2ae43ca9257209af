"""Callbacks that interrupt training: signals, exceptions, killed workers."""

import builtins
import multiprocessing
import os
import signal
import time
from pathlib import Path

import lightning as L


class Send(L.Callback):
    """Sends a signal to its own process once, and creates the file `sent`, which prevents further ones."""

    def __init__(self, step: int, where: str = "train", number: int = 15, rank: int = 0) -> None:
        self.step, self.where, self.number, self.rank = step, where, number, rank

    def _send(self, trainer):
        mine = trainer.global_step == self.step and trainer.global_rank == self.rank
        if mine and not Path("sent").exists():
            Path("sent").touch()
            os.kill(os.getpid(), self.number)

    def on_train_batch_end(self, trainer, *args):
        if self.where == "train":
            self._send(trainer)

    def on_validation_batch_end(self, trainer, module, outputs, batch, batch_idx, dataloader_idx=0):
        if self.where == "validation" and not trainer.sanity_checking:
            self._send(trainer)


class Fail(L.Callback):
    """Raises an exception during validation, while both loaders have worker processes."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def on_validation_batch_end(self, trainer, *args):
        if not trainer.sanity_checking:
            raise getattr(builtins, self.kind)(self.kind)


class KillWorker(L.Callback):
    """Kills all loader workers once, after the fourth training step or the first image of `validate`."""

    def _kill(self):
        if not Path("killed").exists():
            Path("killed").touch()
            for worker in multiprocessing.active_children():
                os.kill(worker.pid, signal.SIGKILL)
                worker.join()

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == 4:
            self._kill()

    def on_validation_batch_end(self, trainer, *args):
        if trainer.state.fn == "validate":
            self._kill()


class FailAlone(L.Callback):
    """Raises in rank zero only, while the others wait for it in the next step."""

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == 2 and trainer.global_rank == 0:
            raise ValueError("this process alone")


class Stall(L.Callback):
    """Never ends the second step, like a slow compilation; the first interrupt is only noted."""

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == 2:
            Path(f"stalled-{trainer.global_rank}").touch()
            while True:
                time.sleep(0.05)


class SendFirst(L.Callback):
    """Sends the signal in the first validation, which may be the one before training."""

    def __init__(self, number: int) -> None:
        self.number = number

    def on_validation_batch_start(self, *args, **options):
        os.kill(os.getpid(), self.number)

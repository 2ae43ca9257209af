"""A callback that sends the own process a signal at one moment of training, once."""

import builtins
import os
from pathlib import Path

import lightning as L


class Send(L.Callback):
    """Does nothing where the working directory has a file `sent`, which it leaves there itself."""

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
    """Raises an exception in a validation, while both loaders have worker processes."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def on_validation_batch_end(self, trainer, *args):
        if not trainer.sanity_checking:
            raise getattr(builtins, self.kind)(self.kind)

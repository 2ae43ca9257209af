"""`ledger.npz`: the confusion counts of every single image, from which any score can be computed again."""

from pathlib import Path

import lightning as L

from segbench.callbacks.checkpoints import is_best
from segbench.metrics.ledger_file import save_ledger
from segbench.tasks.base import Task


class LedgerFile(L.Callback):
    """Writes the ledger of the best validation while training, or of the one validation or test asked for."""

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes, if this validation is the best so far."""
        if not trainer.sanity_checking and (trainer.state.fn != "fit" or is_best(trainer)):
            self._write(trainer, pl_module, "val")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes."""
        self._write(trainer, pl_module, "test")

    def _write(self, trainer: L.Trainer, module: L.LightningModule, split: str) -> None:
        if not isinstance(module, Task):
            return
        ledger = module.counts[split].ledger()  # on all ranks: it synchronises
        if trainer.is_global_zero:
            save_ledger(Path(trainer.default_root_dir) / "ledger.npz", ledger, split, module.class_names)

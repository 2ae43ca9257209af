"""`ledger.npz`: the confusion counts of every single image, from which any score can be computed again."""

from pathlib import Path
from typing import Any

import lightning as L

from segbench.metrics.ledger_file import save_ledger
from segbench.tasks.base import Task


class LedgerFile(L.Callback):
    """Writes the ledger of the best validation while training, or of the one validation or test asked for."""

    def __init__(self) -> None:
        """Starts without a best score."""
        self.best_score = -1.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forgets a best score whose ledger is not here: the run began elsewhere."""
        if not (Path(trainer.default_root_dir) / "ledger.npz").is_file():
            self.best_score = -1.0

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes, if this validation is the best so far."""
        if trainer.sanity_checking:
            return
        score = float(trainer.callback_metrics.get("val/miou", float("nan")))
        if trainer.state.fn != "fit" or score > self.best_score:
            self.best_score = score
            self._write(trainer, pl_module, "val")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes."""
        self._write(trainer, pl_module, "test")

    def state_dict(self) -> dict[str, Any]:
        """Remembers the best score across interruptions."""
        return {"best_score": self.best_score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Recalls the best score."""
        self.best_score = state_dict["best_score"]

    def _write(self, trainer: L.Trainer, module: L.LightningModule, split: str) -> None:
        if not isinstance(module, Task):
            return
        ledger = module.counts[split].ledger()  # on all ranks: it synchronises
        if trainer.is_global_zero:
            save_ledger(Path(trainer.default_root_dir) / "ledger.npz", ledger, split, module.class_names)

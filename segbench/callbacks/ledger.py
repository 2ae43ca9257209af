"""`ledger.npz`: the confusion counts of every single image, from which any score can be computed again."""

from pathlib import Path

import lightning as L

from segbench.callbacks.checkpoints import is_best
from segbench.runs.ledger_file import save_ledger
from segbench.tasks.base import Task


class LedgerFile(L.Callback):
    """Writes the ledger of the best validation while training, or of the one validation or test asked for.

    Where further counts of iterations were scored, each has a `ledger_iterations_N.npz` beside `ledger.npz`.
    """

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
        # While training, further counts of iterations are not scored.
        names = (
            [split] if trainer.state.fn == "fit" else [name for name in module.counts if name.startswith(split)]
        )
        for name in names:
            ledger = module.counts[name].ledger()  # on all ranks: it synchronises
            if trainer.is_global_zero:
                file = "ledger.npz" if name == split else f"ledger{name.removeprefix(split)}.npz"
                save_ledger(Path(trainer.default_root_dir) / file, ledger, split, module.class_names)

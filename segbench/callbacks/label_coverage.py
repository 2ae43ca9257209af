"""Says of a scored split which classes it never shows, and when nothing in it can be scored."""

import lightning as L
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn

from segbench.tasks.base import Task

_SHOWN = 8


class LabelCoverage(L.Callback):
    """Speaks after the first validation of a training, and after each validation or test asked for."""

    def __init__(self) -> None:
        """Has said nothing yet."""
        self._told = False

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Looks at the labels of the validation split."""
        if not trainer.sanity_checking:
            self._look(trainer, pl_module, "val")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Looks at the labels of the test split."""
        self._look(trainer, pl_module, "test")

    def _look(self, trainer: L.Trainer, module: L.LightningModule, split: str) -> None:
        if self._told or not isinstance(module, Task):
            return
        self._told = True
        ledger = module.counts[split].ledger()  # on all ranks: it synchronises
        number = len(ledger.names)
        pixels = ledger.total(module.num_classes).sum(1)
        if not pixels.any():
            best = ", and no best.ckpt is written; last.ckpt is" if trainer.state.fn == "fit" else ""
            rank_zero_warn(
                f"{split}: no pixel of its {number} images has a class (all are ignore_index"
                f" {module.ignore_index}), so that its scores are NaN{best}"
            )
            return
        absent = [name for name, count in zip(module.class_names, pixels, strict=True) if not count]
        if absent:
            more = f" and {len(absent) - _SHOWN} more" if len(absent) > _SHOWN else ""
            has = "have" if len(absent) > 1 else "has"
            rank_zero_info(
                f"{split}: {', '.join(absent[:_SHOWN])}{more} {has} no pixel in its {number} images: the IoU is"
                " 0 where predicted all the same, else NaN and left out of the mean"
            )

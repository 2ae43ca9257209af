"""What a training shows on the terminal: which parts the model has, and how far it is."""

from collections.abc import Iterator
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichModelSummary, RichProgressBar
from rich import get_console
from rich.table import Table
from torch import nn


class ProgressBar(RichProgressBar):
    """Lightning's bar, which counts steps where steps, not epochs, say how long a training is."""

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """Returns what stands beside the bar; no version of a logger, which says nothing here."""
        shown: dict[str, Any] = super().get_metrics(trainer, pl_module)
        shown.pop("v_num", None)
        if trainer.training and trainer.max_steps > 0:
            shown = {"step": f"{trainer.global_step:,} of {trainer.max_steps:,}", **shown}
        return shown

    def _get_train_description(self, current_epoch: int) -> str:
        if (self.trainer.max_epochs or -1) < 0:  # Lightning would write epoch 4/-2
            return f"Epoch {current_epoch}".ljust(len(self.validation_description))
        return super()._get_train_description(current_epoch)


class ModelSummary(RichModelSummary):
    """The parts of a model that compute, without the modules that count scores."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Prints the table, of the first process alone."""
        if not trainer.is_global_zero:
            return
        table = Table(header_style="bold")
        table.add_column("part")
        table.add_column("class")
        table.add_column("parameters", justify="right")
        table.add_column("trained", justify="right")
        for name, part in _parts(pl_module):
            table.add_row(name, type(part).__name__, *_count(part))
        table.add_section()
        table.add_row("model", type(pl_module).__name__, *_count(pl_module))
        get_console().print(table)


def _parts(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, part in model.named_children():
        if isinstance(part, nn.Sequential):  # necks, some of which have no parameters
            yield from ((f"{name}.{index}", one) for index, one in enumerate(part))
        elif next(part.parameters(), None) is not None:
            yield name, part


def _count(module: nn.Module) -> tuple[str, str]:
    parameters = list(module.parameters())
    trained = [one for one in parameters if one.requires_grad]
    return f"{sum(one.numel() for one in parameters):,}", f"{sum(one.numel() for one in trained):,}"

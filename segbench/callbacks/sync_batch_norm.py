"""Batch norms that are the same in all processes, whatever the shares of the images.

`DistributedDataParallel` would send the buffers of the first process to the others at every step, and in
validation too, where processes take different numbers of steps and would wait for each other forever.
"""

import inspect

import lightning as L
from lightning.pytorch.strategies import DDPStrategy
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from segbench.layers.sync_batch_norm import batch_norms, synchronize

# torch 2.13 renamed the option.
_NAMES = inspect.signature(DistributedDataParallel).parameters
_OPTION = "forward_sync_buffers" if "forward_sync_buffers" in _NAMES else "broadcast_buffers"


class ConvertSyncBatchNorm(L.Callback):
    """Synchronises batch norms in training, or at least makes them one before each validation."""

    def __init__(self, synchronized: bool = True) -> None:
        """Takes the choice.

        Args:
            synchronized: Statistics of the whole batch, over all processes; false: of each process's share.
        """
        self.synchronized = synchronized

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Exchanges the layers before optimisers are built and the model is wrapped."""
        if isinstance(trainer.strategy, DDPStrategy):
            # The strategy hands these on to DistributedDataParallel; Lightning has no other door to it.
            options = trainer.strategy._ddp_kwargs
            if not {_OPTION, "broadcast_buffers"} & options.keys():
                options[_OPTION] = False
        if stage == "fit" and trainer.world_size > 1 and self.synchronized:
            synchronize(pl_module, trainer.strategy.root_device.type)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gives all processes the statistics of the first, so that scores do not depend on who scores what."""
        if trainer.world_size > 1 and not self.synchronized:
            for norm in batch_norms(pl_module):
                for buffer in norm.buffers():
                    distributed.broadcast(buffer, 0)

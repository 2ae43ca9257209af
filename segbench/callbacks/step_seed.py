"""Random numbers of each training step as a function of the step alone, so that resuming is exact."""

import os
from typing import Any

import lightning as L
import numpy as np
import torch


class StepSeed(L.Callback):
    """Seeds torch before every training batch from run seed, epoch, batch and rank.

    Dropout and stochastic depth then draw the same numbers whether or not the run was interrupted before, and
    whatever validation or data loading drew in between.
    """

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seeds the generators of all devices."""
        entropy = (
            int(os.environ.get("PL_GLOBAL_SEED", "0")),
            trainer.current_epoch,
            batch_idx,
            trainer.global_rank,
        )
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1)))

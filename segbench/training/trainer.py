"""Lightning's trainer, whose training always ends with a validation of its last weights."""

from typing import Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

from segbench.callbacks.checkpoints import Checkpoints


class Trainer(L.Trainer):
    """`fit`, `validate`, `test` and `predict`, as in Lightning."""

    def _run_stage(self) -> Any:
        """Adds the last validation where the loop ended without one.

        That is after early stopping at the end of an epoch, and where a run was killed in its last validation:
        resumed, it has no step left, so that Lightning's loop calls no hook at all.
        """
        results = super()._run_stage()
        if self.state.fn == TrainerFn.FITTING:
            for keeper in self.checkpoint_callbacks:
                if isinstance(keeper, Checkpoints):
                    keeper.finish(self)
        return results

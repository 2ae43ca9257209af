"""A callback that makes one tensor of a training non-finite, in one process."""

from pathlib import Path

import lightning as L
import torch


class Poison(L.Callback):
    """Makes weights or states non-finite after an optimiser step, or later gradients, features or logits."""

    def __init__(self, what: str, step: int = 2, rank: int = 0, until: int = 1000) -> None:
        self.what, self.step, self.rank, self.until = what, step, rank, until

    def _now(self, trainer):
        return trainer.global_rank == self.rank and self.step <= trainer.global_step < self.until

    def on_after_backward(self, trainer, module):
        if self.what == "gradient" and self._now(trainer):
            next(p for p in module.decoder.parameters() if p.grad is not None).grad.fill_(torch.inf)

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if self.what == "image" and self._now(trainer) and not Path("poisoned").exists():
            self.handle = module.encoder.register_forward_hook(
                lambda encoder, args, output: output._replace(
                    maps=tuple(level * torch.nan for level in output.maps)
                )
            )

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if hasattr(self, "handle"):
            self.handle.remove()
            if trainer.global_step >= self.until:
                Path("poisoned").touch()  # a resumed run is not affected
        if trainer.global_step != self.step or trainer.global_rank != self.rank:
            return
        with torch.no_grad():
            if self.what == "weight":
                next(module.decoder.parameters()).view(-1)[0] = -torch.inf
            elif self.what == "buffer":
                next(b for name, b in module.named_buffers() if "running_mean" in name)[0] = torch.nan
            elif self.what == "optimizer":
                state = next(iter(trainer.optimizers[0].state.values()))
                next(v for v in state.values() if torch.is_tensor(v) and v.numel() > 1).view(-1)[0] = torch.nan

    def on_validation_start(self, trainer, module):
        if self.what == "logits" and not trainer.sanity_checking:
            self.logits = module.decoder.register_forward_hook(
                lambda decoder, args, output: output._replace(logits=output.logits * torch.nan)
            )

"""Ends a training that has diverged before anything of it is saved, and names the images on which it did."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor, distributed
from torch.utils.hooks import RemovableHandle

from segbench.functional.finite import all_below_infinity, first_fault
from segbench.types import Prediction
from segbench.utils.files import atomic_write

LOOK_EVERY = 50  # batches: looking waits for the device
MIN_LOSS_SCALE = 1e-4  # https://github.com/facebookresearch/fairseq gives up there as well
FILE = "divergence.json"
_REMEDY = "the training has diverged; give a lower learning rate, or --trainer.gradient_clip_val 1"


class Seen(NamedTuple):
    """A training batch.

    Attributes:
        step: Optimiser step to which it belongs, counted from 1.
        epoch: Counted from 0.
        batch: Place in the epoch.
        images: Names.
        losses: Each term by its name in the log, the sum last; on the device.
    """

    step: int
    epoch: int
    batch: int
    images: tuple[str, ...]
    losses: dict[str, Tensor]


class TerminateOnNonFiniteLoss(L.Callback):
    """Looks whether losses, weights, buffers, optimiser state and logits are finite; all processes end alike.

    Every checkpoint is looked at before it is written, the last state before a run is called finished, the
    losses of all steps every few steps besides, and the logits of each validation and test before it is
    scored. What is not finite never becomes so again, and would take the place of `last.ckpt`.

    With a gradient scaler (precision 16-mixed) steps of non-finite gradients are skipped and nothing is lost:
    that is a fault only where no step is left.
    """

    def __init__(self) -> None:
        self._seen: list[Seen] = []  # since the last look
        self._learnt = False  # from any finite loss
        self._watch: RemovableHandle | None = None  # over the model's predictions
        self._logits_whole: Tensor | None = None  # of the batch that is being scored
        self._scored: list[tuple[tuple[str, ...], Tensor]] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begins with nothing seen."""
        self._seen, self._learnt = [], False
        if trainer.is_global_zero:
            _file(trainer).unlink(missing_ok=True)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Notes what the model is about to see."""
        names = tuple(getattr(batch, "name", ()))
        self._seen.append(Seen(trainer.global_step + 1, trainer.current_epoch, batch_idx, names, {}))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Notes what came of it."""
        terms = outputs.get("terms", {})
        self._seen[-1].losses.update({f"train/{name}": value.detach() for name, value in terms.items()})
        self._seen[-1].losses["train/loss"] = outputs["loss"].detach()
        if len(self._seen) >= LOOK_EVERY:
            self._check(trainer)

    def guard(self, trainer: L.Trainer, checkpoint: dict[str, Any]) -> None:
        """Refuses what should never be saved.

        Args:
            trainer: Whose checkpoint it is.
            checkpoint: Whole.
        """
        self._check(trainer, checkpoint)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuses to call it finished."""
        state = {
            "state_dict": pl_module.state_dict(),
            "optimizer_states": [optimizer.state_dict() for optimizer in trainer.optimizers],
        }
        self._check(trainer, state, last=True)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Watches what the model predicts."""
        self._watch_logits(pl_module)

    on_test_start = on_predict_start = on_validation_start

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Notes whose predictions these were."""
        if self._logits_whole is not None:
            self._scored.append((tuple(getattr(batch, "name", ())), self._logits_whole))
            self._logits_whole = None

    on_test_batch_end = on_predict_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuses to score predictions that are not finite."""
        if self._watch is not None:
            self._watch.remove()
        self._check_logits(trainer)

    on_test_epoch_end = on_predict_epoch_end = on_validation_epoch_end

    def _check(self, trainer: L.Trainer, state: Mapping[str, Any] | None = None, last: bool = False) -> None:
        """Ends the training in all processes if it has diverged in any.

        Args:
            trainer: Between two steps.
            state: What a checkpoint holds of weights and optimiser, where that is looked at as well.
            last: No step comes after this one.
        """
        losses = _values([seen.losses for seen in self._seen])
        finite = [all(map(math.isfinite, values.values())) for values in losses]
        self._learnt |= any(finite)
        fault = None if state is None else _state_fault(trainer.lightning_module, state)
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is None or not scaler.is_enabled():
            good = all(finite)
        else:
            good = self._learnt or not (last and finite)
            if fault is None and scaler.get_scale() < MIN_LOSS_SCALE:
                fault = f"the loss scale is down to {scaler.get_scale():g}, so that every step is skipped,"
        if not trainer.strategy.reduce_boolean_decision(good and fault is None, all=True):
            self._end(trainer, losses, fault)
        # The gradient of the step before may be what a loss shows.
        self._seen = [seen for seen in self._seen if seen.step == self._seen[-1].step]

    def _end(self, trainer: L.Trainer, losses: list[dict[str, float]], fault: str | None) -> None:
        mine = [
            {**seen._asdict(), "rank": trainer.global_rank, "losses": values}
            for seen, values in zip(self._seen, losses, strict=True)
        ]
        gathered = _of_all(trainer, (mine, fault))
        batches = sorted(
            (batch for ours, _ in gathered for batch in ours), key=lambda x: (x["step"], x["batch"], x["rank"])
        )
        bad = [
            (batch["step"], name, value)
            for batch in batches
            for name, value in batch["losses"].items()
            if not math.isfinite(value)
        ]
        if bad:
            step, name, value = bad[0]
            told = f"{name} is {value:g} at step {step}"
        else:
            step = trainer.global_step
            name = next(fault for _, fault in gathered if fault is not None)
            told = f"{name} at step {step}"
        told += f": {_REMEDY}"
        near = [batch for batch in batches if step - 1 <= batch["step"] <= step]
        self._write(trainer, {"first": name, "step": step, "batches": near})
        if trainer.fast_dev_run:  # type: ignore[attr-defined]  # whose folder is gone when this is read
            shown = [name for batch in near for name in batch["images"]]
            raise ValueError(f"{told}; the images of this step and the last are {', '.join(shown)}")
        saved = Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"
        kept = f"{saved} is from before" if saved.is_file() else "no checkpoint was saved before"
        raise ValueError(f"{told}; {kept}, and {_file(trainer)} names the images of this step and the last")

    def _watch_logits(self, module: L.LightningModule) -> None:
        if self._watch is not None:  # of a validation that did not come to its end
            self._watch.remove()
        self._scored, self._logits_whole = [], None
        self._watch = module.register_forward_hook(self._note_logits)

    def _note_logits(self, module: Any, args: Any, output: Any) -> None:
        prediction = output[0] if isinstance(output, tuple) and output else None
        if isinstance(prediction, Prediction):
            whole = all_below_infinity(prediction.logits.detach())
            self._logits_whole = whole if self._logits_whole is None else self._logits_whole & whole

    def _check_logits(self, trainer: L.Trainer) -> None:
        whole = torch.stack([flag for _, flag in self._scored]).tolist() if self._scored else []
        if trainer.strategy.reduce_boolean_decision(all(whole), all=True):
            return
        mine = [
            name for (names, _), good in zip(self._scored, whole, strict=True) if not good for name in names
        ]
        images = [name for names in _of_all(trainer, mine) for name in names]
        told = f"the predicted logits of {len(images)} images are not finite, such as those of {images[0]}"
        if trainer.state.fn == "fit":
            step = trainer.global_step
            record = {"first": "val/logits", "step": step, "epoch": trainer.current_epoch, "images": images}
            self._write(trainer, record)
            kept = "" if trainer.fast_dev_run else f"; {_file(trainer)} names them"  # type: ignore[attr-defined]
            raise ValueError(f"{told}, in the validation at step {step}: {_REMEDY}{kept}")
        raise ValueError(
            f"{told}, so that scores and labels would mean nothing: take an earlier checkpoint, or give "
            "--trainer.precision 32-true"
        )

    def _write(self, trainer: L.Trainer, record: dict[str, Any]) -> None:
        if trainer.is_global_zero:
            record = {**record, "seed": int(os.environ.get("PL_GLOBAL_SEED", "0"))}
            with atomic_write(_file(trainer)) as draft:
                draft.write_text(json.dumps(_with_words(record), indent=2) + "\n")
        trainer.strategy.barrier("divergence")  # else the first to end may take the others down before


def _state_fault(module: L.LightningModule, checkpoint: Mapping[str, Any]) -> str | None:
    """Says what is at fault in a checkpoint: weights first, then averages and the optimiser's state."""
    parameters = {name for name, _ in module.named_parameters()}
    # Other entries may be infinite for good reasons, as the best score of EarlyStopping is before the first.
    others = ("current_model_state", "averaging_state", "optimizer_states")
    name = first_fault(checkpoint["state_dict"], "", parameters) or first_fault(
        {key: checkpoint[key] for key in others if key in checkpoint}
    )
    return None if name is None else f"{name} is not finite"


def _values(losses: list[dict[str, Tensor]]) -> list[dict[str, float]]:
    """Fetches all losses at once."""
    flat = [value.float() for terms in losses for value in terms.values()]
    numbers = iter(torch.stack(flat).tolist() if flat else [])
    return [{name: next(numbers) for name in terms} for terms in losses]


def _of_all(trainer: L.Trainer, value: Any) -> list[Any]:
    """Collects a value of each process."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [value]
    values: list[Any] = [None] * trainer.world_size
    distributed.all_gather_object(values, value)
    return values


def _file(trainer: L.Trainer) -> Path:
    return Path(trainer.default_root_dir) / FILE


def _with_words(value: Any) -> Any:
    """JSON has neither nan nor inf: they become words."""
    if isinstance(value, dict):
        return {key: _with_words(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_words(entry) for entry in value]
    return f"{value:g}" if isinstance(value, float) and not math.isfinite(value) else value

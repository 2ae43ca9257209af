"""`run.json`: what was run, where, at what cost, and how well it scored."""

import platform
import statistics
import sys
import time
from collections import deque
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import WandbLogger
from lightning_utilities.core.rank_zero import rank_zero_warn

from segbench.callbacks.checkpoints import is_best
from segbench.callbacks.feature_cache.callback import FeatureCache
from segbench.data.base import SegmentationDataModule
from segbench.data.fingerprint import changed, fingerprint
from segbench.runs.run_json import read_earlier, write_run_json
from segbench.tasks.base import Task
from segbench.utils.environment import commit, processor
from segbench.utils.posix import peak_resident

PACKAGES = (
    "segbench",
    "torch",
    "lightning",
    "torchmetrics",
    "timm",
    "albumentations",
    "opencv-python-headless",
)
WARM_UP_STEPS = 5  # the first steps pay for allocation and autotuning
TIMED_STEPS = 2000


class RunMetadata(L.Callback):
    """Keeps `run.json` in the run folder up to date and says at the end where everything is."""

    def __init__(self, command: list[str], checkpoint: str | None = None) -> None:
        """Takes what only the command line knows.

        Args:
            command: Its arguments.
            checkpoint: What was loaded, if anything.
        """
        self.command = command
        self.checkpoint = checkpoint
        self.card: dict[str, Any] = {}
        self._durations: deque[float] = deque(maxlen=TIMED_STEPS)
        self._skip = WARM_UP_STEPS
        self._step = 0
        self._last: float | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Writes what is known before the first step."""
        if not isinstance(pl_module, Task):
            raise ValueError(f"model: {type(pl_module).__name__} is not a segbench task")
        before = read_earlier(Path(trainer.default_root_dir))  # of the run that is being continued
        parameters = {
            name: sum(p.numel() for p in part.parameters()) for name, part in pl_module.parts().items()
        }
        parameters["total"] = sum(p.numel() for p in pl_module.parameters())
        self.card = {
            "verb": stage,
            "finished": False,
            "command": ["segbench", *self.command],
            "checkpoint": self.checkpoint,
            "wandb": next(
                ({"id": x.version, "project": x.name} for x in trainer.loggers if isinstance(x, WandbLogger)),
                before.get("wandb"),
            ),
            "started": before.get("started", datetime.now(UTC).isoformat(timespec="seconds")),
            "commit": commit(),
            "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
            "device": _device(trainer),
            "precision": str(trainer.precision),
            "data": self._data(trainer, before.get("data")),
            "parameters": parameters,
            "step_time_s": before.get("step_time_s"),
            "peak_memory_bytes": before.get("peak_memory_bytes", 0),
            "scores": before.get("scores", {}),
            "history": before.get("history", []),
        }
        self._write(trainer)

    def _data(self, trainer: L.Trainer, before: Any) -> dict[str, Any] | None:
        """Identifies the data, and warns where a resumed run began on others."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, SegmentationDataModule):
            return None
        now = fingerprint(data)
        if isinstance(before, dict) and (found := changed(before, now)):
            rank_zero_warn(
                f"{trainer.default_root_dir} began on other data ({'; '.join(found)}): its scores before and"
                " after this point cannot be compared; to train on other data begin another run with its"
                " weights by --init-from CKPT"
            )
        return now

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Notes whether features are cached, which is settled by now."""
        callbacks = trainer.callbacks  # type: ignore[attr-defined]  # set where mypy does not look
        self.card["feature_cache"] = next((c.report for c in callbacks if isinstance(c, FeatureCache)), None)
        self._write(trainer)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts from the step at which a resumed run stands."""
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Takes the time from the end of one optimiser step to the end of the next, loading included.

        Ends are compared, not a step's start and end: on a GPU, which works behind the program, only the pace
        is real.
        """
        if trainer.global_step == self._step:
            return  # gradients are being accumulated
        now = time.perf_counter()
        if self._last is not None and self._skip:
            self._skip -= 1
        elif self._last is not None:
            self._durations.append(now - self._last)
        self._step, self._last = trainer.global_step, now

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leaves validation out of the next step's time."""
        self._last = None

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Notes the scores: the best ones while training, in any case the history."""
        if not trainer.sanity_checking:
            self._note_all(trainer, pl_module, "val")
        elif trainer.num_sanity_val_steps == float("inf") and not self.card["history"]:
            # num_sanity_val_steps: -1 scores the whole split before the first step: where learning starts from.
            scores = pl_module.counts["val"].scores() if isinstance(pl_module, Task) else {}
            before = {name: float(scores[name]) for name in ("miou", "macc", "aacc") if name in scores}
            self.card["history"] = [{"step": 0, **before}] if before else []

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Notes the scores."""
        self._note_all(trainer, pl_module, "test")

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes the final figures, once the last weights are validated and nothing more can go wrong."""
        self.card["finished"] = True
        self._write(trainer)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Says where everything is."""
        if not trainer.is_global_zero or trainer.interrupted or not self.card:
            return
        if number := int(trainer.fast_dev_run):  # type: ignore[attr-defined]  # set where mypy does not look
            batches = "one batch" if number == 1 else f"{number} batches"
            print(f"fast_dev_run: {batches} of each split went through; nothing is kept")
            return
        folder = Path(trainer.default_root_dir)
        checkpoint = folder / "checkpoints" / "best.ckpt"
        if not checkpoint.exists():
            checkpoint = checkpoint.with_name("last.ckpt")
        history, best = self.card["history"], self.card["scores"].get("val")
        if stage == "fit" and history and best:
            print(
                f"validation mIoU {_percent(history[0]['miou'])} at step {history[0]['step']}, "
                f"best {_percent(best['miou'])} at step {best['step']}, "
                f"last {_percent(history[-1]['miou'])} at step {history[-1]['step']}"
            )
        if stage == "fit" and not trainer.enable_validation:
            remedy = f"`segbench validate --checkpoint {checkpoint}` makes them"
            print(f"no scores: trainer.limit_val_batches is 0; {remedy}")
        for split, scores in self.card["scores"].items():
            print(
                f"{split:<11} "
                + "  ".join(f"{key} {_percent(scores[key])}" for key in ("miou", "macc", "aacc"))
            )
        for title, path in (
            ("pictures", folder / "panels"),
            ("predictions", folder / "predictions"),
            ("scores", folder / "run.json"),
            ("checkpoint", checkpoint),
        ):
            if path.exists():
                print(f"{title:<12}{path}")

    def _note_all(self, trainer: L.Trainer, module: L.LightningModule, split: str) -> None:
        """Notes a split, and what was scored beside it with other counts of iterations."""
        names = module.counts if isinstance(module, Task) else [split]
        for name in names:
            if name.startswith(split):
                self._note(trainer, name)

    def _note(self, trainer: L.Trainer, split: str) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if f"{split}/miou" not in metrics:
            return
        scores: dict[str, Any] = {name: metrics[f"{split}/{name}"] for name in ("miou", "macc", "aacc")}
        prefix = f"{split}/iou/"
        scores["iou"] = {name.removeprefix(prefix): v for name, v in metrics.items() if name.startswith(prefix)}
        scores["step"] = trainer.global_step
        fitting = trainer.state.fn == "fit"
        self.card["finished"] = not fitting
        if not fitting or split not in self.card["scores"] or is_best(trainer):
            self.card["scores"][split] = scores
        if fitting:
            # A run that was killed after this step and resumed before it validates here once more.
            history = [entry for entry in self.card["history"] if entry["step"] < trainer.global_step]
            self.card["history"] = [*history, {key: scores[key] for key in ("step", "miou", "macc", "aacc")}]
        self._write(trainer)

    def _write(self, trainer: L.Trainer) -> None:
        if self._durations:
            self.card["step_time_s"] = statistics.median(self._durations)
        self.card["peak_memory_bytes"] = max(self.card["peak_memory_bytes"] or 0, _peak_memory())
        if trainer.is_global_zero:
            write_run_json(Path(trainer.default_root_dir), self.card)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _device(trainer: L.Trainer) -> dict[str, Any]:
    root = trainer.strategy.root_device
    name = torch.cuda.get_device_name(root) if root.type == "cuda" else processor()
    return {
        "type": root.type,
        "name": name,
        "processes": trainer.world_size,
        "threads": torch.get_num_threads(),
    }


def _peak_memory() -> int:
    """Bytes: what the CUDA allocator handed out at most, or on a CPU the whole process's resident memory."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes there, kibibytes elsewhere
    return peak_resident() * unit


def _percent(value: float | None) -> str:
    return "nan" if value is None or value != value else f"{100 * value:.2f} %"

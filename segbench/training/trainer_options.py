"""What Lightning's Trainer would refuse only after data and model are built, or without a remedy."""

import re

from jsonargparse import Namespace
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.strategies import StrategyRegistry

from segbench.parsing.names import did_you_mean

_DEVICES = re.compile(r"auto|-1|[1-9]\d*|\d+(\s*,\s*\d+)+,?|\d+,")


def check_trainer(trainer: Namespace, verb: str) -> None:
    """Refuses accelerators, devices and strategies that do not exist or are not on this machine, and idle runs.

    Args:
        trainer: Its options, parsed.
        verb: fit, validate, test or predict.

    Raises:
        ValueError: With what there is.
    """
    _check_purpose(trainer, verb)
    accelerator = trainer.get("accelerator")
    if isinstance(accelerator, str):
        _check_accelerator(accelerator)
    devices = trainer.get("devices")
    if isinstance(devices, (str, int)) and not _DEVICES.fullmatch(str(devices).strip()):
        raise ValueError(
            f"trainer.devices: give auto, a number from 1, or a list of devices as in [0, 1]; got {devices}"
        )
    if isinstance(devices, list) and not _uses_gpu(accelerator):
        raise ValueError(f"trainer.devices: {devices} names GPUs; on the CPU give a number of processes")
    strategy = trainer.get("strategy")
    names = [*StrategyRegistry.available_strategies(), "auto", "ddp", "fsdp", "deepspeed"]
    if isinstance(strategy, str) and strategy.lower() not in names:
        hint = did_you_mean(strategy, dict.fromkeys(names), "strategies")
        raise ValueError(f"trainer.strategy: unknown strategy '{strategy}'; {hint}")


def _uses_gpu(accelerator: object) -> bool:
    if accelerator != "auto":
        return accelerator != "cpu"
    return any(AcceleratorRegistry[name]["accelerator"].is_available() for name in ("cuda", "mps"))


def _check_accelerator(name: str) -> None:
    there = sorted(AcceleratorRegistry.available_accelerators())
    if name.lower() not in {*there, "auto", "gpu"}:
        hint = did_you_mean(name, [*there, "auto", "gpu"], "accelerators")
        raise ValueError(f"trainer.accelerator: unknown accelerator '{name}'; {hint}")
    wanted = ("cuda", "mps") if name.lower() == "gpu" else (name.lower(),)
    if name.lower() != "auto" and not any(
        AcceleratorRegistry[one]["accelerator"].is_available() for one in wanted if one in there
    ):
        raise ValueError(
            f"trainer.accelerator: {name} is asked for, but torch finds none on this machine; "
            "train on the CPU by --trainer.accelerator cpu, or install a build of torch for your device"
        )


def _check_purpose(trainer: Namespace, verb: str) -> None:
    """Refuses options of Lightning's that leave nothing of what a run is for."""
    split = {"fit": "train", "validate": "val"}.get(verb, verb)
    limit = f"limit_{split}_batches"
    if trainer.get(limit) == 0:
        raise ValueError(f"trainer.{limit}: with 0 batches {verb} does nothing; give 1 or more")
    if trainer.get("barebones"):
        raise ValueError(
            "trainer.barebones: a run without log, checkpoints and scores leaves nothing behind; "
            "`segbench bench models` measures speed, `--trainer.fast_dev_run true` tries a configuration"
        )
    if trainer.get("enable_checkpointing") is False:
        raise ValueError(
            "trainer.enable_checkpointing: without checkpoints nothing can be scored or resumed; "
            "`--trainer.fast_dev_run true` tries a configuration and keeps nothing"
        )

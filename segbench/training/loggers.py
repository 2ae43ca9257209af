"""The loggers of a run: metrics.csv always, TensorBoard or Weights & Biases beside it."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from segbench.runs.metrics_csv import MetricsCSV
from segbench.runs.run_json import wandb_run


def make_loggers(choice: str, given: Any, folder: Path, experiment: str) -> list[Logger]:
    """Builds the loggers of a run.

    Args:
        choice: Value of `--logger`: csv, tensorboard or wandb.
        given: Value of `trainer.logger`: loggers to add, or False for none at all.
        folder: The run folder.
        experiment: Name of the experiment.

    Returns:
        The loggers; empty if `given` is False.

    Raises:
        ValueError: If W&B is wanted and not installed.
    """
    if given is False:
        return []
    loggers: list[Logger] = [MetricsCSV(folder)]
    if isinstance(given, Logger):
        loggers.append(given)
    elif isinstance(given, (list, tuple)):
        loggers.extend(given)
    if choice == "tensorboard":
        loggers.append(TensorBoardLogger(str(folder), name="", version="tensorboard"))
    elif choice == "wandb":
        loggers.append(_wandb_logger(folder, experiment))
    return loggers


def _wandb_logger(folder: Path, experiment: str) -> WandbLogger:
    if find_spec("wandb") is None:
        raise ValueError("logger: wandb is not installed; pip install 'segbench[wandb]'")
    # wandb.api would know the key, but fixes its mode when it is first asked.
    offline = os.environ.get("WANDB_MODE") == "offline" or not _has_wandb_key()
    # The folder names the run; a resumed run keeps its id even if its folder was moved.
    kept = wandb_run(folder)
    return WandbLogger(
        name=f"{experiment}/{folder.name}",
        save_dir=str(folder),
        id=kept.get("id", f"{experiment}-{folder.name}"),  # another experiment may have a run of that name
        resume="allow",
        offline=offline,
        mode="offline" if offline else os.environ.get("WANDB_MODE", "online"),
        project=kept.get("project") or os.environ.get("WANDB_PROJECT", "segbench"),
    )


def _has_wandb_key() -> bool:
    """Whether W&B can log in: by the environment, or by the netrc entry that `wandb login` writes."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").partition("://")[2].split("/")[0]
    netrc = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    return netrc.is_file() and host in netrc.read_text()

"""What a run that goes on must have in common with the run that began: all of its configuration."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace

from segbench.run_files import read_config
from segbench.tasks.checkpoint import read_checkpoint

# Where files are and what is shown; none of it changes a single weight.
FREE = (
    "runs_dir",
    "run_id",
    "logger",
    "data.init_args.root",
    "data.init_args.cache",
    "data.init_args.cache_dir",
    "data.init_args.num_workers",
    "trainer.enable_progress_bar",
    "trainer.enable_model_summary",
)


def find_run(run: str) -> tuple[Path, Path]:
    """Finds what is needed to go on with a run.

    Args:
        run: Its folder.

    Returns:
        The configuration with which it was trained last, and its last checkpoint.

    Raises:
        ValueError: If there is no such run, or it has no checkpoint.
    """
    folder = Path(run)
    config, checkpoint = folder / "config.yaml", folder / "checkpoints" / "last.ckpt"
    if not config.is_file():
        raise ValueError(
            f"resume: {folder} is no run folder: config.yaml is not there; name runs/EXPERIMENT/RUN as a whole"
        )
    if not checkpoint.is_file():
        raise ValueError(
            f"resume: {folder} has no checkpoints/last.ckpt, so nothing of it is lost by beginning anew: "
            f"segbench fit --config {config}"
        )
    try:
        trained = _config_of(read_checkpoint(checkpoint))
    except ValueError as error:
        best = checkpoint.with_name("best.ckpt")
        remedy = f"; to train on from another: --config {config} --ckpt_path {best}" if best.is_file() else ""
        raise ValueError(f"{error}{remedy}") from error
    read_config(config)  # a damaged one is named here, before it is parsed
    # A run that was once continued with other settings has config.1.yaml beside the first.
    wanted = None if trained is None else trained.encode()
    others = [path for path in sorted(folder.glob("config.*.yaml")) if path.read_bytes() == wanted]
    return others[0] if others and config.read_bytes() != wanted else config, checkpoint


def check_same(config: dict[str, Any], checkpoint: dict[str, Any], path: str) -> None:
    """Refuses to go on with other settings.

    Args:
        config: As parsed now.
        checkpoint: The content of the run's last checkpoint.
        path: Its path, for the message.

    Raises:
        ValueError: If the two differ, with all keys in which they do.
    """
    told = _config_of(checkpoint)
    if told is None:
        raise ValueError(f"{path} carries no configuration; go on by --config CONFIG --ckpt_path {path}")
    different = [
        f"{key}: {_short(here)} here, {_short(there)} there"
        for key, here, there in differences(config, yaml.safe_load(told))
        if key not in FREE
    ]
    if different:
        raise ValueError(
            f"{path} was trained with other settings ({'; '.join(different)}); leave them as they were, or "
            f"train on with the new ones by --config CONFIG --ckpt_path {path}, which resumes no run"
        )


def differences(
    here: dict[str, Any], there: dict[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Finds the settings in which two configurations differ.

    Args:
        here: One, of plain values and namespaces.
        there: The other.
        prefix: Of all keys.

    Yields:
        Dotted key, value here, value there.
    """
    for key in sorted(here.keys() | there.keys()):
        one, other = _plain(here.get(key)), _plain(there.get(key))
        if isinstance(one, dict) and isinstance(other, dict):
            yield from differences(one, other, f"{prefix}{key}.")
        elif one != other:
            yield f"{prefix}{key}", one, other


def _config_of(checkpoint: dict[str, Any]) -> str | None:
    ours = checkpoint.get("segbench")
    return str(ours["config"]) if isinstance(ours, dict) and "config" in ours else None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _plain(value: Any) -> Any:
    """Makes values comparable that YAML, command line and checkpoint spell differently."""
    if isinstance(value, Namespace):
        value = value.as_dict()
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value

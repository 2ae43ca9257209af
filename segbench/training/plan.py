"""What a command of `fit`, `validate`, `test` or `predict` will do with run folders and checkpoints.

Decided before anything is built, from the configuration and the files alone.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segbench.checkpoints.reading import (
    FROM_DATA,
    has_training_state,
    model_config,
    read_checkpoint,
    saved_config,
)
from segbench.runs.folder import experiment_name, run_folder, run_of
from segbench.training.resume import check_same, differences


@dataclass(frozen=True)
class RunPlan:
    """Where a command writes, and what it starts from.

    Attributes:
        experiment: Name of the folder under runs/.
        folder: The run folder; it may not exist yet.
        checkpoint: Path of the checkpoint that is loaded; None for a model as it is built.
        content: What the checkpoint holds; None without one.
        resumes: Whether the run in `folder` continues with the settings it was started with, so that its
            config.yaml is kept.
        notes: For the user, a line each: settings in which the command departs from the checkpoint.
    """

    experiment: str
    folder: Path
    checkpoint: str | None = None
    content: dict[str, Any] | None = field(default=None, repr=False)
    resumes: bool = False
    notes: tuple[str, ...] = ()

    @property
    def holds_weights_only(self) -> bool:
        """Whether the checkpoint has no training state, as an exported one, which Lightning cannot read."""
        return self.content is not None and not has_training_state(self.content)


def plan_run(
    config: Mapping[str, Any],
    argv: Sequence[str],
    *,
    resume: bool = False,
    runs_dir: Path | None = None,
    lock: Callable[[Path], object] = Path,
) -> RunPlan:
    """Plans a run.

    Args:
        config: The resolved configuration of the verb, in plain values.
        argv: The command line, the verb first.
        resume: Whether the checkpoint's run must continue with the same settings, as `--resume` demands.
        runs_dir: Folder of all runs; default: that of the configuration.
        lock: Called with a run folder of a given name before anything of it is read.

    Returns:
        The plan.

    Raises:
        ValueError: If the checkpoint cannot be read or does not suit the verb, or a resumed run would change a
            setting that affects weights or scores.
    """
    verb = argv[0]
    experiment = config.get("experiment") or experiment_name(list(argv))
    folder = run_folder(runs_dir or Path(config["runs_dir"]), experiment, config.get("run_id"))
    path = config.get("ckpt_path")
    if config.get("run_id") is not None:
        lock(folder)
        last = folder / "checkpoints" / "last.ckpt"
        if (
            verb == "fit" and last.is_file()
        ):  # takes precedence over --ckpt_path, from which the run may have begun
            path, resume = last, True
        elif verb != "fit" and (folder / "run.json").is_file():
            raise ValueError(f"run_id: {folder} exists already; only training resumes in its folder")
    if not path:
        notes = () if verb == "fit" else ("no checkpoint is given: the model is scored as it is built",)
        return RunPlan(experiment, folder, notes=notes)
    path = str(path)
    content = read_checkpoint(path)
    if verb == "fit" and not has_training_state(content):
        raise ValueError(
            f"{path} holds weights, but no optimiser and no step, so no training can resume from it; "
            "to start one with these weights give it by --start.checkpoint"
        )
    if resume:
        check_same(config, content, path)
    departures = tuple(_departures(config, content, path, with_data=verb == "fit"))
    if resume:
        folder = Path(path).parents[1]
    elif verb == "fit" and not departures and not config["trainer"].get("fast_dev_run"):
        folder = run_of(path) or folder
    return RunPlan(experiment, folder, path, content, resume, departures)


def _departures(
    config: Mapping[str, Any], checkpoint: dict[str, Any], path: str, *, with_data: bool
) -> Iterator[str]:
    """Lists where a command departs from how its checkpoint was trained.

    Lightning would silently prefer the checkpoint's settings; here the user's win, and are reported.
    """
    for key, here, there in differences(config["model"], model_config(checkpoint)):
        if key.removeprefix("init_args.") not in FROM_DATA:
            yield f"model.{key}: {here!r} here, {there!r} in {path}; {here!r} is used"
    saved = saved_config(checkpoint, path) if with_data else None
    if saved is not None:
        for key, here, there in differences(config["data"], saved["data"]):
            yield f"data.{key}: {here!r} here, {there!r} in {path}; {here!r} is used"

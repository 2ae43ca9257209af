"""The command line of `fit`, `validate`, `test` and `predict` before LightningCLI parses it."""

import re
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from segbench.checkpoints.reading import read_checkpoint, run_config
from segbench.checkpoints.trust import read_names
from segbench.runs.folder import RunLocks
from segbench.training.resume import check_own, find_run
from segbench.utils.files import scratch


class Arguments(NamedTuple):
    """A command line that LightningCLI understands.

    Attributes:
        words: The verb and its options.
        resume: Whether a run continues as it was started, or not at all.
    """

    words: list[str]
    resume: bool


def expand(args: Sequence[str], locks: RunLocks) -> Arguments:
    """Replaces the short options by Lightning's where a checkpoint or a run folder carries the configuration.

    Args:
        args: With `--checkpoint CKPT` or `--resume RUN`, and `--trust PACKAGE`, or with `--init-from CKPT`
            anywhere, or without.
        locks: Gets the run folder that is resumed.

    Returns:
        The command line for LightningCLI.

    Raises:
        ValueError: If the verb does not have the option, or two of them contradict each other.
    """
    finder = ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--checkpoint")
    finder.add_argument("--trust", action="append", default=[])
    finder.add_argument("--resume")
    finder.add_argument("--init-from", "--init_from")
    found, rest = finder.parse_known_args(_expand_overlays(args))
    verb, rest = rest[:1], rest[1:]
    if verb != ["fit"]:
        if found.resume is not None or found.init_from is not None:
            raise ValueError("--resume and --init-from belong to `segbench fit` alone")
    elif found.checkpoint is not None:
        raise ValueError(
            "`segbench fit` resumes a run by --resume RUN, and starts one from the weights of another by "
            "--init-from CKPT"
        )
    if found.resume is not None:
        if found.init_from is not None or _has(rest, "--ckpt_path") or _has(rest, "--run_id"):
            raise ValueError("--resume takes the run's own last checkpoint and folder: leave the others out")
        if (Path(found.resume) / "config.yaml").is_file():
            locks.add(Path(found.resume))  # before anything of it is read: another process may still write
        config, last = find_run(found.resume)
        check_own(config, read_names(found.trust))
        return Arguments([*verb, "--config", str(config), *rest, "--ckpt_path", str(last)], resume=True)
    if found.init_from is not None:
        return Arguments([*verb, *rest, "--start.checkpoint", found.init_from], resume=False)
    if found.checkpoint is not None:
        kept = run_config(read_checkpoint(found.checkpoint), found.checkpoint, read_names(found.trust))
        written = locks.enter_context(scratch()) / "checkpoint.yaml"
        written.write_text(yaml.safe_dump(kept))
        words = [*verb, "--config", str(written), *rest, "--ckpt_path", found.checkpoint]
        return Arguments(words, resume=False)
    if found.trust:
        raise ValueError(
            "--trust names packages whose classes a checkpoint or a run may name: give --checkpoint CKPT or "
            "--resume RUN"
        )
    return Arguments([*verb, *rest], resume=False)


def resolve_config(args: Sequence[str]) -> dict[str, Any]:
    """Parses a command line without running it.

    Args:
        args: The verb first.

    Returns:
        The resolved configuration of the verb, in plain values.

    Raises:
        ValueError: If the command line or a file it names is refused.
    """
    from jsonargparse import ArgumentError

    from segbench.training.parser import TrainerParser  # takes seconds to import

    with RunLocks() as locks:
        try:
            return TrainerParser(expand(args, locks).words).resolved()
        except ArgumentError as error:
            raise ValueError(str(error)) from error


def _expand_overlays(args: Sequence[str]) -> list[str]:
    """Reads `--overlay` as one more `--config`: sweeps vary experiment and dataset at a time, by two names."""
    return [re.sub(r"^--overlay(?==|$)", "--config", word) for word in args]


def _has(args: Sequence[str], option: str) -> bool:
    """Whether an option is given, as `--name VALUE` or `--name=VALUE`."""
    return any(word == option or word.startswith(f"{option}=") for word in args)

"""What a resumed run must have in common with the run that was started: all of its configuration."""

import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from segbench.checkpoints.reading import read_checkpoint, saved_config, saved_yaml
from segbench.checkpoints.trust import check_run_trust
from segbench.parsing.names import init_defaults
from segbench.runs.run_json import read_config
from segbench.runs.settings import Effect, effect_of
from segbench.utils.files import cache_folder
from segbench.utils.fingerprint import short_hash
from segbench.utils.plain import MAX_TEXT, read_yaml
from segbench.utils.private import why_insecure


def check_own(config: Path, trust: Sequence[str]) -> None:
    """Refuses to resume a run of somebody else that names code of an unknown package.

    A run that was begun here may name any: it is known by its configuration, word for word.

    Args:
        config: Its configuration.
        trust: Packages whose classes may be named.

    Raises:
        ValueError: If it names others, or is damaged.
    """
    with config.open(encoding="utf-8") as file:
        text = file.read(MAX_TEXT + 1)
    if _is_remembered(text):
        return
    try:
        check_run_trust(read_yaml(text, config), config, trust)
    except ValueError as error:
        last = config.parent / "checkpoints" / "last.ckpt"
        raise ValueError(
            f"{error}; if this is your own run, resume by --config {config} --ckpt_path {last}"
        ) from error


def remember(text: str, path: Path) -> None:
    """Notes that a configuration is this user's own, where `check_own` would refuse it otherwise.

    Args:
        text: The configuration of a run that begins.
        path: Where it is written.
    """
    try:
        check_run_trust(read_yaml(text, path), path)
    except ValueError:
        note = _note(text)
        with suppress(OSError):  # a cache that cannot be written; --trust does the same
            note.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            note.touch(mode=0o600)


def _is_remembered(text: str) -> bool:
    note = _note(text)
    return note.is_file() and why_insecure(note) is None


def _note(text: str) -> Path:
    return cache_folder() / "own_runs" / short_hash(text, 64)


def find_run(run: str) -> tuple[Path, Path]:
    """Finds what is needed to resume a run.

    Args:
        run: Its folder.

    Returns:
        The configuration with which it was trained last, and its last checkpoint.

    Raises:
        ValueError: If the run does not exist, or it has no checkpoint.
    """
    folder = Path(run)
    config, checkpoint = folder / "config.yaml", folder / "checkpoints" / "last.ckpt"
    if not config.is_file():
        raise ValueError(
            f"resume: {folder} is not a run folder: it has no config.yaml; give runs/EXPERIMENT/RUN as a whole"
        )
    if not checkpoint.is_file():
        raise ValueError(
            f"resume: {folder} has no checkpoints/last.ckpt, so it has not saved anything yet; start it with "
            f"segbench fit --config {config}"
        )
    try:
        trained = saved_yaml(read_checkpoint(checkpoint))
    except ValueError as error:
        best = checkpoint.with_name("best.ckpt")
        remedy = f"; to train on from another: --config {config} --ckpt_path {best}" if best.is_file() else ""
        raise ValueError(f"{error}{remedy}") from error
    read_config(config)  # a damaged one is named here, before it is parsed
    # A run that was once continued with other settings has config.1.yaml beside the first.
    wanted = None if trained is None else trained.encode()
    others = [path for path in sorted(folder.glob("config.*.yaml")) if path.read_bytes() == wanted]
    return others[0] if others and config.read_bytes() != wanted else config, checkpoint


def check_same(config: Mapping[str, Any], checkpoint: dict[str, Any], path: str) -> None:
    """Refuses to resume with other settings.

    Args:
        config: As parsed now.
        checkpoint: The content of the run's last checkpoint.
        path: Its path, for the message.

    Raises:
        ValueError: If the two differ, with all keys in which they do.
    """
    saved = saved_config(checkpoint, path)
    if saved is None:
        raise ValueError(f"{path} carries no configuration; resume by --config CONFIG --ckpt_path {path}")
    different = [
        f"{key}: {_short(here)} here, {_short(there)} there"
        for key, here, there in differences(config, saved)
        if effect_of(key) is not Effect.NONE
    ]
    if different:
        raise ValueError(
            f"{path} was trained with other settings ({'; '.join(different)}); leave them as they were, or "
            f"train on with the new ones by --config CONFIG --ckpt_path {path}, which resumes no run"
        )


def differences(
    here: Mapping[str, Any], there: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Finds the settings in which two configurations differ.

    Options that an earlier version did not have count as the same where they have their defaults.

    Args:
        here: One, of plain values and namespaces.
        there: The other, which may be of an earlier version.
        prefix: Of all keys.

    Yields:
        Dotted key, value here, value there.
    """
    here, there = _plain(here), _plain(there)
    there = _completed(there, here)
    for key in sorted(here.keys() | there.keys()):
        one, other = here.get(key), there.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            yield from differences(one, other, f"{prefix}{key}.")
        elif one != other:
            yield f"{prefix}{key}", one, other


def _completed(there: Any, here: Any, defaults: dict[str, Any] | None = None) -> Any:
    """Adds options of classes to a configuration that has none of them, where they are at their defaults."""
    if isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        return [_completed(*pair) for pair in zip(there, here, strict=True)]
    if not isinstance(there, dict) or not isinstance(here, dict):
        return there
    name = here.get("class_path")
    options = _defaults(name) if isinstance(name, str) and name == there.get("class_path") else None
    known = {
        key: _completed(value, here.get(key), options if key == "init_args" else None)
        for key, value in there.items()
    }
    new = {
        key: _plain(value)
        for key, value in (defaults or {}).items()
        if key in here and key not in there and value is not inspect.Parameter.empty
    }
    return known | new


def _defaults(class_path: str) -> dict[str, Any]:
    module, _, name = class_path.rpartition(".")
    found = getattr(sys.modules.get(module), name, None)  # parsing has imported it
    return init_defaults(found) if isinstance(found, type) else {}


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

"""Reads and writes `run.json` of a run folder, and reads its `config.yaml`, with types checked."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from segbench.utils.files import atomic_write
from segbench.utils.fingerprint import json_hash
from segbench.utils.plain import load_yaml


def read_run_json(folder: Path) -> dict[str, Any]:
    """Reads the metadata of a run.

    Args:
        folder: The run folder.

    Returns:
        The content of its `run.json`. Fields that earlier versions did not write may be missing; those that are
        there have the types that this version writes.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is not JSON, or a field has another type; with the file and the field.
    """
    path = folder / "run.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged (it holds {_kind(content)} instead of an object)")
    for field, (expected, is_valid) in _FIELDS.items():
        if field in content and not is_valid(content[field]):
            raise ValueError(f"{path} is damaged ({field}: expected {expected}, got {_kind(content[field])})")
    return content


def read_earlier(folder: Path) -> dict[str, Any]:
    """Reads the metadata of a run that is about to continue.

    Args:
        folder: The run folder; need not exist.

    Returns:
        As `read_run_json`; empty where there is no `run.json` yet.

    Raises:
        ValueError: If the file is damaged, with the remedy.
    """
    try:
        return read_run_json(folder)
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{error}; move it away to resume without its history") from None


def write_run_json(folder: Path, content: Mapping[str, Any]) -> None:
    """Writes the metadata of a run, atomically.

    Args:
        folder: The run folder.
        content: Plain values; NaN, which JSON lacks, becomes null.
    """
    with atomic_write(folder / "run.json") as draft:
        draft.write_text(json.dumps(_without_nan(content), indent=2) + "\n")


def wandb_run(folder: Path) -> dict[str, str]:
    """Reads which run of W&B a run folder belongs to.

    Args:
        folder: The run folder; need not exist.

    Returns:
        `id` and `project`; empty where W&B never logged.
    """
    return dict(read_earlier(folder).get("wandb") or {})


def read_config(path: Path) -> dict[str, Any]:
    """Reads a resolved configuration.

    Args:
        path: Of the `config.yaml` of a run folder.

    Returns:
        Its content.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is not the YAML of a configuration.
    """
    try:
        content = load_yaml(path.read_text(encoding="utf-8"), path)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"{path} is damaged ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ValueError(f"{path} is damaged (it holds {_kind(content)} instead of a configuration)")
    return content


def data_digests(card: Mapping[str, Any]) -> dict[str, str]:
    """Shortens the fingerprint of a run's data to what is compared.

    Args:
        card: Of `read_run_json`.

    Returns:
        Digest of `classes` and of each split; empty where the version that wrote it recorded none.
    """
    data = card.get("data")
    if data is None:
        return {}
    classes = json_hash(data["classes"], 16)
    return {"classes": classes, **{split: entry["digest"] for split, entry in data["splits"].items()}}


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and value != value else value


def _kind(value: Any) -> str:
    return {dict: "an object", list: "a list", str: "text", type(None): "null"}.get(
        type(value), repr(value)[:40]
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _optional(is_valid: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or is_valid(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_scores(value: Any) -> bool:
    """Whether scores are there as numbers; undefined ones are null."""
    names = ("miou", "macc", "aacc")
    return isinstance(value, Mapping) and all(
        isinstance(entry, Mapping)
        and "miou" in entry
        and all(_optional(_is_number)(entry.get(name)) for name in names)
        and _optional(_is_number)(entry.get("step"))
        and isinstance(entry.get("iou", {}), Mapping)
        and all(map(_optional(_is_number), entry.get("iou", {}).values()))
        for entry in value.values()
    )


def _is_history(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(entry, Mapping)
        and isinstance(entry.get("step"), int)
        and all(_optional(_is_number)(number) for number in entry.values())
        for entry in value
    )


def _are_counts(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(n, int) and n >= 0 for n in value.values())


def _are_texts(value: Any) -> bool:
    return isinstance(value, Mapping) and all(map(_is_text, value.values()))


def _is_data(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and isinstance(value.get("classes"), list)
        and all(map(_is_text, value["classes"]))
        and isinstance(value.get("splits"), Mapping)
        and all(
            isinstance(entry, Mapping) and _is_text(entry.get("digest")) for entry in value["splits"].values()
        )
    )


_FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "verb": ("text", _is_text),
    "finished": ("true or false", lambda value: isinstance(value, bool)),
    "checkpoint": ("text or null", _optional(_is_text)),
    "commit": ("text or null", _optional(_is_text)),
    "started": ("text", _is_text),
    "wandb": ("id and project, or null", _optional(_are_texts)),
    "device": ("an object", lambda value: isinstance(value, Mapping)),
    "versions": ("an object", lambda value: isinstance(value, Mapping)),
    "parameters": ("numbers of parameters", _are_counts),
    "step_time_s": ("a number or null", _optional(_is_number)),
    "peak_memory_bytes": ("a number or null", _optional(_is_number)),
    "data": ("classes and a digest of each split, or null", _optional(_is_data)),
    "scores": ("miou of each split", _are_scores),
    "history": ("a list of scores with their steps", _is_history),
}

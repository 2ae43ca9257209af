"""Checkpoints as safetensors: weights, and the configuration as JSON in the file's metadata.

Format: https://github.com/huggingface/safetensors. Such a file holds numbers and text alone: nothing in it is
unpickled. What only a resumed training needs (optimiser, schedule) is left out.
"""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from segbench.utils.plain import read_json

KEY = "segbench"  # of our JSON among the metadata
_MAX_HEADER = 8 << 20  # bytes; that of ViT-L has 40 KB, and the configuration at most 2 MB
KEPT = ("hyper_parameters", "segbench", "global_step")  # of a checkpoint, beside its weights


def write_safetensors(path: Path, checkpoint: dict[str, Any]) -> None:
    """Writes weights and configuration.

    Args:
        path: Of the new file.
        checkpoint: From `segbench.checkpoints.reading.read_checkpoint`.

    Raises:
        OSError: If it could not be written whole.
    """
    seen: set[int] = set()
    weights = {}
    for name, tensor in checkpoint["state_dict"].items():
        # The format knows no tensors that share memory, as tied weights do.
        shared = tensor.untyped_storage().data_ptr() in seen
        seen.add(tensor.untyped_storage().data_ptr())
        weights[name] = tensor.clone() if shared else tensor.contiguous()
    path.touch()
    mode = path.stat().st_mode  # as the user's umask has it; the library would keep the file to its owner
    metadata = {"format": "pt", KEY: json.dumps(description(checkpoint))}
    try:
        save_file(weights, path, metadata)
    except SafetensorError as error:
        raise OSError(f"{path.parent}: the weights could not be written: {error}") from error
    path.chmod(mode)


def description(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Extracts everything but weights and the state of training.

    Args:
        checkpoint: From `segbench.checkpoints.reading.read_checkpoint`.

    Returns:
        What there is of `KEPT`; plain values, as JSON knows them.

    Raises:
        ValueError: If there are other values.
    """
    kept = {key: checkpoint[key] for key in KEPT if key in checkpoint}
    try:
        plain: dict[str, Any] = json.loads(json.dumps(kept))
    except TypeError as error:
        raise ValueError(f"the checkpoint's configuration holds more than plain values: {error}") from error
    return plain


def read_safetensors(path: Path, described: bool = True) -> dict[str, Any]:
    """Reads weights, and the configuration unless it is kept elsewhere.

    Args:
        path: The file.
        described: Whether its metadata must hold the configuration.

    Returns:
        `state_dict`, on the CPU; and if `described`, what there is of `KEPT`.

    Raises:
        ValueError: If the file is damaged, or has no configuration of segbench.
    """
    with path.open("rb") as opened:
        header = int.from_bytes(opened.read(8), "little")
    if header > _MAX_HEADER:
        raise ValueError(
            f"{path} is damaged, or no safetensors file at all: its header claims {header:,} bytes"
        )
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is not a dictionary)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged, or no safetensors file at all: {error}") from error
    if not described:
        return {"state_dict": weights}
    if KEY not in metadata:
        raise ValueError(
            f"{path} holds weights, but not what model they are of; `segbench export --format safetensors` "
            "writes files that say so themselves"
        )
    return {"state_dict": weights, **parse_description(metadata[KEY], path)}


def parse_description(text: str, path: Path) -> dict[str, Any]:
    """Reads what `description` gave.

    Args:
        text: JSON.
        path: Where it stood, for the message.

    Returns:
        What there is of `KEPT`, at least `hyper_parameters`.

    Raises:
        ValueError: If it is something else.
    """
    found = read_json(text, path, KEPT)
    if not isinstance(found, dict) or not isinstance(found.get("hyper_parameters"), dict):
        raise ValueError(f"{path}: its configuration is not segbench's: hyper_parameters are missing")
    return found

"""Files of other code bases, read without running anything from them."""

import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segbench.checkpoints.archive import check_archive

# NumPy's numbers, which trainings leave among their best scores. They are built of a type and bytes, and their
# maker has had two names. Arrays, and all that MMEngine keeps beside them, stay refused.
_make_number = np.float64(0).__reduce__()[0]
_LONGEST = 64 << 20  # MMEngine keeps the history of its log there
_NUMBERS: list[Any] = [
    (_make_number, "numpy.core.multiarray.scalar"),
    (_make_number, "numpy._core.multiarray.scalar"),
    np.dtype,
    *{type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["Float"] + "?"},
]

# Where it was made may be an old torch without `weights_only`: naming a module of pickle's kind asks every
# version to run what the file holds. NumPy's numbers among names and scores become plain ones.
_MAKE_PLAIN = (
    "import json, pickle, torch; c = torch.load('OLD', 'cpu', pickle_module=pickle);"
    " plain = lambda v: getattr(v, 'tolist', v.__str__)();"
    " torch.save({**{k: c[k] for k in ('model', 'state_dict', 'n_cls') if k in c},"
    " 'meta': json.loads(json.dumps(c.get('meta'), default=plain))}, 'PLAIN')"
)


def read_foreign(path: Path) -> dict[str, Any]:
    """Reads a checkpoint of another code base.

    Tensors are mapped, not read: what is never looked at, such as the optimiser's state, costs no memory.

    Args:
        path: A file that `torch.save` wrote.

    Returns:
        Its content: tensors and plain values only.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is not a checkpoint, is damaged, or would have to run code to be read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint not found: {path}")
    mapped = zipfile.is_zipfile(path)  # files of torch before 1.6 are none, and cannot be mapped
    if mapped:
        check_archive(path, _LONGEST)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_NUMBERS):
            warnings.simplefilter("ignore")  # what is wrong with the file is told in one line, or nothing is
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except PermissionError:
        raise
    except Exception as error:  # a file of another kind makes the unpickler stumble in any way
        raise ValueError(_refusal(path, error, mapped)) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, where a checkpoint is a dictionary")
    return content


def weights(content: dict[str, Any], name: str, path: Path) -> dict[str, Tensor]:
    """Takes the weights out of a checkpoint.

    Args:
        content: From `read_foreign`.
        name: Under which key they lie there.
        path: For the message.

    Returns:
        Tensors by name, without the prefix `module.` that a model on several devices gives to all of them.

    Raises:
        ValueError: If there are none, or something else is among them.
    """
    found = content.get(name)
    if not isinstance(found, dict) or not found:
        there = ", ".join(str(key) for key in list(content)[:6]) or "nothing"
        raise ValueError(f"{path} has no weights under '{name}'; there is {there}")
    for key, value in found.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            kind = "no name" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{path}: {key} under '{name}' is {kind}, where weights are expected")
    prefix = "module." if all(key.startswith("module.") for key in found) else ""
    return {key.removeprefix(prefix): value for key, value in found.items()}


def _refusal(path: Path, error: Exception, mapped: bool) -> str:
    """Says in one line why a file was not read."""
    code = re.search(r"GLOBAL ([\w.]+)|(?:class|global|type|function)\W+([\w]+(?:\.\w+)+)", str(error))
    if isinstance(error, pickle.UnpicklingError) and code:
        return (
            f"{path} holds more than tensors and plain values ({code[1] or code[2]}): reading it would run"
            " code from it. If you trust the file, take out what is needed where it was made:"
            f' python -c "{_MAKE_PLAIN}"'
        )
    if mapped:
        return f"{path} is a zip archive, but no checkpoint in it can be read; was it saved by torch.save?"
    with path.open("rb") as file:
        begins_as_zip = file.read(4) == b"PK\x03\x04"
    if begins_as_zip:
        return f"{path} is cut off: its end is missing; copy or download it again"
    return f"{path} is damaged, or no checkpoint: torch.load cannot read it"

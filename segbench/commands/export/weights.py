"""Weights and configuration as one safetensors file, read back before it is kept."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from segbench.checkpoints.reading import load_task
from segbench.checkpoints.safetensors_file import write_safetensors
from segbench.tasks.base import Task
from segbench.utils.files import atomic_write


def write_weights(
    checkpoint: dict[str, Any], task: Task, out: Path, trust: str | Sequence[str] | None = None
) -> None:
    """Writes the file.

    Args:
        checkpoint: From `segbench.checkpoints.reading.read_checkpoint`.
        task: Built from it.
        out: The new file; nothing is left of it after a failure.
        trust: Packages beside segbench whose classes may be built.

    Raises:
        ValueError: If what is read back is not the same.
    """
    with atomic_write(out) as draft:
        write_safetensors(draft, checkpoint)
        again = load_task(draft, trust).state_dict()
        for name, value in task.state_dict().items():
            if not torch.equal(again[name], value):
                raise ValueError(f"{out}: {name} is read back otherwise than it was written; nothing is kept")

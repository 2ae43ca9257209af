"""Writes a checkpoint's file."""

from pathlib import Path
from typing import Any

import torch


def save_file(content: Any, path: Path) -> None:
    """Calls `torch.save`, with the system's own error where the file cannot be written.

    Args:
        content: Plain values and tensors.
        path: The file, which is overwritten.

    Raises:
        OSError: If the disk is full, or writing fails otherwise.
    """
    with path.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # about positions in the file, with the system's error behind it
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None

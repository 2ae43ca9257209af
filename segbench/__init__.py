"""segbench: which segmentation decoder is better, where, by how much, at what cost, and is it real?"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from segbench.tasks.base import Task

__version__ = "0.1.0"


def load(checkpoint: "str | Path") -> "Task":
    """Rebuilds a trained task from its checkpoint alone.

    Args:
        checkpoint: A `.ckpt` of `segbench fit`; read without running anything from it.

    Returns:
        The task in evaluation mode, on the CPU; `task.segment(image)` labels a batch of photographs.

    Raises:
        ValueError: If the file is no segbench checkpoint, or damaged.
    """
    from segbench.tasks.checkpoint import load_task  # torch takes seconds; `segbench --help` must not

    return load_task(checkpoint)

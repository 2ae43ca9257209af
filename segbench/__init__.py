"""segbench: which segmentation decoder is better, where, by how much, at what cost, and is it real?"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from segbench.tasks.base import Task

__version__ = "0.1.0"


def load(checkpoint: "str | Path", trust: "str | Sequence[str] | None" = None) -> "Task":
    """Rebuilds a trained task from its checkpoint alone.

    No code in the file is run. The file names the classes of its model; those of segbench and the optimisers of
    torch are built. Others are refused before they are imported, unless `trust` names their package.

    Args:
        checkpoint: A `.ckpt` of `segbench fit`, or a `.safetensors` or a Hugging Face folder of
            `segbench export`.
        trust: Your own packages whose classes may be built, such as `["my_package"]`. The environment variable
            `SEGBENCH_TRUST` adds more, separated by spaces.

    Returns:
        The task in evaluation mode, on the CPU.

    Raises:
        ValueError: If the file is not a segbench checkpoint, damaged, or refers to a class that is not trusted.

    Example:
        `checkpoint` is the path of a model with three classes.

        >>> task = segbench.load(checkpoint)
        >>> task.training, task.class_names
        (False, ['sky', 'ground', 'tree'])
        >>> segbench.load("no/such/file.ckpt")
        Traceback (most recent call last):
        ...
        ValueError: checkpoint not found: no/such/file.ckpt
    """
    from segbench.checkpoints.reading import load_task  # torch takes seconds, too slow for `segbench --help`

    return load_task(checkpoint, trust)

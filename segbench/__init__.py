"""segbench: which segmentation decoder is better, where, by how much, at what cost, and is it real?"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from segbench.tasks.base import Task

__version__ = "0.1.0"


def load(checkpoint: "str | Path", trust: "str | Sequence[str] | None" = None) -> "Task":
    """Rebuilds a trained task from its checkpoint alone.

    Nothing in the file is run. It names the classes that its model is made of; those of segbench are built, and
    torch's optimisers. Others are refused before they are imported, unless `trust` names their package.

    Args:
        checkpoint: A `.ckpt` of `segbench fit`, or a `.safetensors` or a Hugging Face folder of
            `segbench export`.
        trust: Packages of your own whose classes may be built, such as `["my_package"]`. The environment
            variable `SEGBENCH_TRUST` may name more, with spaces between them.

    Returns:
        The task in evaluation mode, on the CPU.

    Raises:
        ValueError: If the file is not a segbench checkpoint, damaged, or names a class that is not trusted.

    Example:
        `checkpoint` is the path of a model of three classes.

        >>> task = segbench.load(checkpoint)
        >>> task.training, task.class_names
        (False, ['sky', 'ground', 'tree'])
        >>> segbench.load("no/such/file.ckpt")
        Traceback (most recent call last):
        ...
        ValueError: checkpoint not found: no/such/file.ckpt
    """
    from segbench.checkpoints.reading import load_task  # torch takes seconds; `segbench --help` must not

    return load_task(checkpoint, trust)

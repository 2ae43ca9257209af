"""How Lightning writes checkpoint files here: beside their place, and moved there when they are complete.

Its own `TorchCheckpointIO` writes into the system's folder for temporary files and moves the file from there.
On clusters the two are on different disks: moving is copying, a kill leaves half a file, and a full disk is
reported with the path of a file that nobody knows.
"""

from pathlib import Path
from typing import Any

from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from segbench.checkpoints.writing import save_file
from segbench.utils.files import atomic_write


class AtomicCheckpointIO(TorchCheckpointIO):
    """Replaces a checkpoint only by a complete one that has reached the disk."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Writes the file.

        Args:
            checkpoint: Plain values and tensors.
            path: Of the file; its folder is made.
            storage_options: Not used.

        Raises:
            OSError: If it cannot be written; the previous file is then still there.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, durable=True) as draft:
            save_file(checkpoint, draft)

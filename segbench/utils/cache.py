"""The folder for what was computed once: drawn scenes, decoded labels, compiled kernels, features."""

import os
from pathlib import Path


def cache_folder(cache_dir: str | Path | None = None) -> Path:
    """Finds the folder.

    Args:
        cache_dir: Named by the user; by default `$SEGBENCH_CACHE` or `~/.cache/segbench`.

    Returns:
        Its path; it may not exist yet.
    """
    return Path(cache_dir or os.environ.get("SEGBENCH_CACHE") or "~/.cache/segbench").expanduser()

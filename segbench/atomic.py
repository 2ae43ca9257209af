"""Files that appear whole or not at all."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Writes a file beside its place and moves it there when it is complete.

    A kill or an error in between leaves the previous file as it was.

    Args:
        path: Where the file is to stand.

    Yields:
        Where to write it first: in the same folder, under a name that nobody else has. (Not the process number
        alone: machines and containers that share a folder have the same numbers.)
    """
    draft = path.with_name(f".{uuid.uuid4().hex}.{path.name}")
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)

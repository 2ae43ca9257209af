"""Files decoded once and kept as arrays that are mapped into memory.

From the second pass on nothing is decoded, and while the set fits into memory nothing is read from disk either:
the system keeps mapped files there, once for all workers.
"""

import errno
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segbench.atomic import replacing
from segbench.cache import cache_folder
from segbench.data.decoding import READER
from segbench.data.recipe import recipe
from segbench.data.spec import Layout, Pair

Read = Callable[[Pair], tuple[NDArray[np.uint8], NDArray[np.integer] | None]]


class DecodedFiles:
    """Reads pairs as a layout does, each from its files once and from arrays ever after.

    A file that changes in size or time is decoded anew; what was kept of it before stays until the folder
    `decoded` below the cache folder is removed.
    """

    def __init__(self, layout: Layout) -> None:
        """Nothing is read yet.

        Args:
            layout: Opens the files.

        Raises:
            ValueError: If it cannot be written down, so that its arrays could not be told from others.
        """
        self._read: Read = layout.read
        # A layout may turn colours into ids, so what it knows belongs to what the arrays hold.
        self._reader = json.dumps([recipe(layout), READER], sort_keys=True)
        self._folder = cache_folder() / "decoded"

    def __call__(self, pair: Pair) -> tuple[NDArray[np.uint8], NDArray[np.integer] | None]:
        """Reads a pair; see `Layout.read`.

        Raises:
            ValueError: If a file is damaged, or there is no room to keep it.
        """
        image, mask = self._place(pair)
        try:
            return np.load(image, mmap_mode="r"), None if pair.label is None else np.load(mask, mmap_mode="r")
        except FileNotFoundError:
            pass
        arrays = self._read(pair)
        image.parent.mkdir(parents=True, exist_ok=True)
        try:
            for path, array in zip(
                (mask, image), reversed(arrays), strict=True
            ):  # the image last: it is looked for
                if array is not None:
                    with replacing(path) as draft, draft.open("wb") as file:
                        np.save(file, array)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise ValueError(
                f"{self._folder} has no room for {pair.image.name}: free some, name another folder by"
                " SEGBENCH_CACHE, or set cache to false"
            ) from None
        return arrays

    def _place(self, pair: Pair) -> tuple[Path, Path]:
        key = hashlib.sha256(self._reader.encode())
        for path in filter(None, (pair.image, pair.label)):
            status = path.stat()
            key.update(f"\0{path.absolute()}\0{status.st_size}\0{status.st_mtime_ns}".encode())
        name = key.hexdigest()[:32]
        folder = self._folder / name[:2]
        return folder / f"{name}-image.npy", folder / f"{name}-mask.npy"

"""Files decoded once and kept as arrays that are mapped into memory.

From the second pass on nothing is decoded, and while the set fits into memory nothing is read from disk either:
the system keeps mapped files there, once for all workers.
"""

import errno
import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segbench.data.io.decoding import READER
from segbench.data.spec import Layout, Pair
from segbench.utils.files import atomic_write, cache_folder
from segbench.utils.fingerprint import fingerprint_fields, short_hash

_CHECK = struct.Struct("<8sI")  # behind the array: a mark, and the CRC-32 of all bytes before
_MARK = b"segbench"

Read = Callable[[Pair], tuple[NDArray[np.uint8], NDArray[np.integer] | None]]


class DecodedFiles:
    """Reads pairs as a layout does, each from its files once and from arrays ever after.

    A file that changes in size or time is decoded again; what was kept of it before stays until the folder
    `decoded` below the cache folder is removed. Arrays that a power failure or a bad disk has damaged are
    noticed when a process first reads them, and made again.
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
        self._reader = json.dumps([fingerprint_fields(layout), READER], sort_keys=True)
        self._folder = cache_folder() / "decoded"
        self._checked: set[Path] = set()

    def __call__(self, pair: Pair) -> tuple[NDArray[np.uint8], NDArray[np.integer] | None]:
        """Reads a pair; see `Layout.read`.

        Raises:
            ValueError: If a file is damaged, or there is no room to keep it.
        """
        image, mask = self._place(pair)
        try:
            return self._load(image), None if pair.label is None else self._load(mask)
        except (FileNotFoundError, ValueError, EOFError):  # not there, or damaged
            pass
        arrays = self._read(pair)
        try:
            image.parent.mkdir(parents=True, exist_ok=True)
            for path, array in zip((image, mask), arrays, strict=True):
                if array is not None:
                    _save(path, array)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise ValueError(
                f"{self._folder} has no room for {pair.image.name}: free some, name another folder by"
                " SEGBENCH_CACHE, or set cache to false"
            ) from None
        return arrays

    def _load(self, path: Path) -> NDArray[Any]:
        """Maps an array, whose bytes are compared with their checksum the first time."""
        if path not in self._checked:
            content = memoryview(path.read_bytes())
            if content[-_CHECK.size :] != _CHECK.pack(_MARK, zlib.crc32(content[: -_CHECK.size])):
                raise ValueError(f"{path} is damaged")
            self._checked.add(path)
        array: NDArray[Any] = np.load(path, mmap_mode="r")
        return array

    def _place(self, pair: Pair) -> tuple[Path, Path]:
        key = self._reader
        for path in filter(None, (pair.image, pair.label)):
            status = path.stat()
            key += f"\0{path.absolute()}\0{status.st_size}\0{status.st_mtime_ns}"
        name = short_hash(key)
        folder = self._folder / name[:2]
        return folder / f"{name}-image.npy", folder / f"{name}-mask.npy"


def _save(path: Path, array: NDArray[Any]) -> None:
    """Writes a .npy file with a checksum behind the array, where readers of .npy files do not look."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(array))
    data = array.tobytes("A")
    check = zlib.crc32(data, zlib.crc32(head.getvalue()))
    # Not by NumPy, which gives a full disk no number by which it could be told from other errors.
    with atomic_write(path) as draft, draft.open("wb") as file:
        file.write(head.getvalue())
        file.write(data)
        file.write(_CHECK.pack(_MARK, check))

"""NumPy's archives from elsewhere: what they claim to hold, looked at before memory is taken for it."""

import math
import zipfile
from pathlib import Path

import numpy as np

_RATIO = 100  # counts and names shrink to a tenth or twentieth at most
_SPARE = 16 << 20


def check_npz(path: Path) -> None:
    """Refuses an archive that would become far larger than it is.

    Args:
        path: A file that `numpy.savez` or `numpy.savez_compressed` may have written.

    Raises:
        ValueError: If it is such a one, or no such archive.
    """
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            claimed = sum(member.file_size for member in members)
            if claimed <= _RATIO * size + _SPARE:
                claimed = sum(min(_numbers(archive, member), 1 << 62) for member in members)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, SyntaxError, ValueError, OverflowError) as error:
        raise ValueError(f"{path} is damaged, or no archive of NumPy") from error
    if claimed > _RATIO * size + _SPARE:
        raise ValueError(f"{path} is refused: it has {size:,} bytes, and claims to hold {claimed:,}")


def _numbers(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> int:
    """Reads how many bytes of numbers a member's header announces."""
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    return math.prod(shape) * dtype.itemsize

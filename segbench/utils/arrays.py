"""NumPy archives from untrusted sources: check the declared size before allocating memory."""

import math
import zipfile
from pathlib import Path

import numpy as np

_RATIO = 100  # counts and names compress to a tenth or twentieth at most
_SPARE = 16 << 20


def check_npz(path: Path) -> None:
    """Refuses an archive that would expand to many times its size.

    Args:
        path: A file that `numpy.savez` or `numpy.savez_compressed` may have written.

    Raises:
        ValueError: If it would, or the file is damaged or not a NumPy archive.
    """
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            declared = sum(member.file_size for member in members)
            if declared <= _RATIO * size + _SPARE:
                declared = sum(min(_num_bytes(archive, member), 1 << 62) for member in members)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, SyntaxError, ValueError, OverflowError) as error:
        raise ValueError(f"{path} is damaged or not a NumPy archive") from error
    if declared > _RATIO * size + _SPARE:
        raise ValueError(f"{path} is refused: the file has {size:,} bytes but declares {declared:,}")


def _num_bytes(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> int:
    """Returns the size in bytes that the header of a member declares."""
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    return math.prod(shape) * dtype.itemsize

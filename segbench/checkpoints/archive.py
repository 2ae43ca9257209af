"""What a checkpoint file claims to hold, looked at before torch unpacks it.

Torch writes a ZIP whose members are stored as they are, so that a file never unpacks to more than itself. One
that is compressed was made by somebody else: 24 MB of zeros become 4 GB.
"""

import pickletools
import struct
import zipfile
from pathlib import Path

import torch
from torch import Tensor

MAX_PICKLE = 4 << 20  # bytes; that of ViT-L with the state of its optimiser has 0.3 MB
_BYTES_EACH = 8  # of a pickle for an operation at least; that of ViT-L has 50,000 in 0.3 MB
_MAX_OPERATIONS = 1 << 21  # torch takes some microseconds for each
_MAX_DIRECTORY = 16 << 20
_BEGIN, _END, _END_64 = b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x06"


def check_archive(path: Path, longest: int = MAX_PICKLE) -> None:
    """Refuses a file that would unpack to more than it is, or whose directory or pickle is out of proportion.

    Args:
        path: A file that `torch.save` may have written.
        longest: Bytes that what stands beside its weights may have.

    Raises:
        ValueError: If it is not a ZIP, or does that.
    """
    with path.open("rb") as file:
        begin = file.read(len(_BEGIN))
        size = file.seek(0, 2)
        file.seek(max(0, size - 98))
        tail = file.read()
    # Exactly at the end, where every reader of ZIPs finds it, and finds the same. Of a file that begins
    # otherwise torch reads the pickle in front, whatever archive stands behind it.
    if begin != _BEGIN or len(tail) < 22 or tail[-22:-18] != _END:
        raise ValueError(f"{path} is damaged, or no checkpoint at all: it is not an archive of torch")
    (directory,) = struct.unpack("<I", tail[-10:-6])
    if directory == 0xFFFFFFFF and tail[-98:-94] == _END_64:
        (directory,) = struct.unpack("<Q", tail[-58:-50])
    if directory > _MAX_DIRECTORY:
        raise ValueError(f"{path} is refused: it lists {directory:,} bytes of names")
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_members(members, size, longest, path)
            for member in members:  # each, should two have one name; torch ignores upper case in names
                if member.filename.lower().endswith(".pkl"):
                    _check_pickle(archive.read(member), min(longest // _BYTES_EACH, _MAX_OPERATIONS), path)
    except (zipfile.BadZipFile, NotImplementedError, struct.error) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _check_members(members: list[zipfile.ZipInfo], size: int, longest: int, path: Path) -> None:
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ValueError(
            f"{path} is refused: it is compressed, as torch writes no checkpoint, and would unpack to"
            f" {sum(member.file_size for member in members):,} bytes"
        )
    if sum(member.file_size for member in members) > size:
        raise ValueError(f"{path} is refused: its members overlap, and claim more bytes than it has")
    if sum(member.file_size for member in members if member.filename.lower().endswith(".pkl")) > longest:
        raise ValueError(f"{path} is refused: beside its weights it holds more than {longest:,} bytes")


def _check_pickle(pickled: bytes, most: int, path: Path) -> None:
    """Counts the operations of a pickle; those of 4 MB can make a gigabyte of empty sets, within a minute."""
    found = set()
    try:
        for count, (operation, argument, _) in enumerate(pickletools.genops(pickled)):
            if count > most:
                break
            if operation.name in {"GLOBAL", "INST", "STACK_GLOBAL"}:
                found.add(str(argument))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if count > most:
        raise ValueError(f"{path} is refused: beside its weights it holds more than {most:,} values")
    # The one callable that torch's reader of weights allows which makes as many bytes as a number says.
    if any("bytearray" in name for name in found):
        raise ValueError(f"{path} is refused: it holds a bytearray, as no checkpoint does")


def check_weights(weights: dict[str, Tensor], path: Path) -> None:
    """Refuses weights that are quantised or sparse, or claim to be more numbers than the file holds.

    Args:
        weights: By name, as read.
        path: The file, or the folder it lies in.

    Raises:
        ValueError: If there are such.
    """
    held: dict[int, int] = {}
    claimed = 0
    for name, value in weights.items():
        plain = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta
        if not isinstance(name, str) or not plain:
            kind = type(value).__name__
            raise ValueError(f"{path} is damaged: weight {name!r} is a {kind}, not plain numbers")
        storage = value.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes()
        claimed += value.numel() * value.element_size()
    if path.is_file() and sum(held.values()) > path.stat().st_size:
        raise ValueError(
            f"{path} is refused: its weights claim {sum(held.values()):,} bytes, more than the file has"
        )
    if claimed > 2 * sum(held.values()):  # tied weights are there once, under two names
        raise ValueError(
            f"{path} is refused: its weights claim {claimed:,} bytes, but only {sum(held.values()):,} are there"
        )

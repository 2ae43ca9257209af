"""What identifies a data set wherever it lies: its classes, and the names and content of its files."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from segbench.data.base import SegmentationDataModule
from segbench.data.spec import Pair

_SAMPLES = 8  # pairs of each split that are read in full; of all others the size counts


def fingerprint(data: SegmentationDataModule) -> dict[str, Any]:
    """Describes the data of a run, the same for a copy in another folder.

    Args:
        data: Set up.

    Returns:
        `classes`, and for each split that was set up the number of `images` and a `digest`, as JSON has them.
    """
    return {
        "classes": data.class_names,
        "splits": {
            split: {"images": len(pairs), "digest": _digest(pairs)}
            for split, pairs in data.listed_pairs().items()
        },
    }


def changed(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Compares two fingerprints in what both of them have.

    Args:
        before: Of `fingerprint`; from a file, so that it may hold anything.
        now: Of `fingerprint`.

    Returns:
        One phrase for each difference.
    """
    found = []
    if before.get("classes", now["classes"]) != now["classes"]:
        found.append("the classes are others")
    splits = before.get("splits")
    for split, entry in now["splits"].items():
        known = splits.get(split) if isinstance(splits, dict) else None
        if isinstance(known, dict) and known.get("digest") != entry["digest"]:
            then, here = known.get("images"), entry["images"]
            numbers = f"{then} images then, {here} now" if then != here else f"{here} images, but other files"
            found.append(f"{split}: {numbers}")
    return found


def _digest(pairs: Sequence[Pair]) -> str:
    total = hashlib.sha256()
    read = {index * len(pairs) // _SAMPLES for index in range(_SAMPLES)}
    for index, pair in enumerate(pairs):
        total.update(f"{pair.name}\0{_describe(pair, index in read)}\n".encode(errors="surrogateescape"))
    return total.hexdigest()[:16]


def _describe(pair: Pair, in_full: bool) -> str:
    return " ".join(_content(path) if in_full else _size(path) for path in _files(pair))


def _files(pair: Pair) -> Iterable[Path]:
    return [pair.image] if pair.label in {None, pair.image} else [pair.image, Path(str(pair.label))]


def _size(path: Path) -> str:
    try:
        return str(path.stat().st_size)
    except OSError:  # reading it will say what is wrong with it
        return "-"


def _content(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:  # as above
        return "-"

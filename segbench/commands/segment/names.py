"""Names of output files: each image has its own, and none leads out of the folder."""

import unicodedata
from collections.abc import Iterable
from pathlib import Path

AREAS = "areas.csv"  # of all images
LABELS, COLORS, OVERLAY = ".png", "_color.png", "_overlay.png"
PROBABILITIES, BOUNDARY = "_probabilities.npz", "_boundary.png"
VIDEO_OVERLAY, VIDEO_AREAS, VIDEO_FRAMES = "_overlay.mp4", "_areas.csv", "_frames"
ENDINGS = (LABELS, COLORS, OVERLAY, PROBABILITIES, BOUNDARY, VIDEO_OVERLAY, VIDEO_AREAS, VIDEO_FRAMES)

_LONGEST = 180  # bytes; file systems take 255, of which endings, numbers and drafts need their part


def outputs(name: str) -> set[str]:
    """Names every file that the image or video `name` may lead to, whatever is asked for."""
    return {name + ending for ending in ENDINGS}


def safe_name(path: Path) -> str:
    """Makes a name for the outputs of a file.

    Args:
        path: Of the image; only its last part counts.

    Returns:
        That part without suffix, never hidden, never a path; what cannot be printed becomes an underscore.
    """
    stem = path.stem.lstrip(".")
    stem = "".join(letter if letter.isprintable() and letter not in '/\\:*?"<>|' else "_" for letter in stem)
    return stem.encode()[:_LONGEST].decode(errors="ignore").strip() or "unnamed"


def is_safe(name: str) -> bool:
    """Returns whether a name could have come from here: no path, and not hidden."""
    return (
        bool(name) and not name.startswith(".") and "/" not in name and "\\" not in name and name.isprintable()
    )


class Names:
    """Gives names that nobody else has, also where a file system takes `A` for `a`."""

    def __init__(self, used: Iterable[str] = ()) -> None:
        """Starts with those that are in use."""
        self._taken: set[str] = set()
        for name in used:
            self._take(name)

    def choose(self, path: Path) -> str:
        """Chooses and takes a name.

        Args:
            path: Of the image.

        Returns:
            Its safe name, with a number where another image has it or one of its outputs.
        """
        name, number = safe_name(path), 1
        while self._taken & _keys(name):
            number += 1
            name = f"{safe_name(path)}-{number}"
        self._take(name)
        return name

    def _take(self, name: str) -> None:
        self._taken |= _keys(name)


def _keys(name: str) -> set[str]:
    return {unicodedata.normalize("NFC", file).casefold() for file in outputs(name)}

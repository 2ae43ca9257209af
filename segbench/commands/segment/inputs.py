"""Finds images and videos: files, folders, and patterns that the shell left alone."""

import glob
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from segbench.data.io.formats import SUFFIXES
from segbench.data.io.listing import Leftovers, Listing, Unread, is_tool_folder, survey

VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg"})


class Found(NamedTuple):
    """What is to be labelled.

    Attributes:
        files: Images and videos, each once, in the order they were given; folders sorted.
        closed: One line for each folder that could not be entered.
        notes: One line each on what in folders is not read, and on what was passed over.
    """

    files: list[Path]
    closed: list[str]
    notes: list[str]


def is_video(path: Path) -> bool:
    """Tells a video by its suffix."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def find(given: Sequence[Path], out: Path, written: Collection[str] = ()) -> Found:
    """Lists what is to be labelled.

    Args:
        given: Images, videos, folders of images (in which videos are passed over, and links to
            folders are not followed), or patterns such as `images/**/*.jpg`.
        out: Where outputs go; what lies in it is not an input of a folder above it.
        written: Names of files in `out` that an earlier call wrote, in case `out` is itself given.

    Returns:
        The files, none of which was opened.

    Raises:
        ValueError: If there is nothing under a name that was given, or nothing to label at all.
    """
    files: list[Path] = []
    listings: list[Listing] = []
    for path in given:
        if path.is_dir():
            files += _in_folder(path, out, written, listings)
        elif os.path.lexists(path):
            files.append(path)
        elif glob.has_magic(str(path)):
            files += _by_pattern(path, out, written, listings)
        else:
            raise ValueError(f"image not found: {path}")
    notes = [
        str(note)
        for listing in listings
        for note in listing.notes()
        if isinstance(note, Unread | Leftovers)  # clutter without pictures is nobody's concern here
    ]
    if not files:
        places = ", ".join(map(str, given))
        raise ValueError("; ".join([f"no photographs ({', '.join(sorted(SUFFIXES))}) in {places}", *notes]))
    once = {os.path.abspath(file): file for file in reversed(files)}  # noqa: PTH100 (links stay links)
    closed = [line for listing in listings for line in listing.closed]
    return Found(list(reversed(once.values())), closed, notes)


def _by_pattern(pattern: Path, out: Path, written: Collection[str], listings: list[Listing]) -> list[Path]:
    files: list[Path] = []
    seen: set[Path] = set()
    recursive = "**" in pattern.parts
    given = len(pattern.parts) if not recursive else pattern.parts.index("**")
    found = sorted(map(Path, glob.glob(str(pattern), recursive=True)))  # noqa: PTH207 (absolute ones too)
    for path in sorted(found, key=lambda path: len(path.parts)):
        # `**` follows links to folders, even one to a folder above, which it then finds forty times.
        place = path.parent.resolve() / path.name
        if place in seen or any(map(is_tool_folder, path.parts[given:-1])):
            continue
        seen.add(place)
        if path.is_dir():
            if not recursive:  # which has found what is in there
                files += _in_folder(path, out, written, listings)
        elif (path.suffix.lower() in SUFFIXES or is_video(path)) and not _is_own(path, out, written):
            files.append(path)
    return sorted(files)


def _in_folder(folder: Path, out: Path, written: Collection[str], listings: list[Listing]) -> list[Path]:
    listings.append(survey(folder, links=False, apart=out))
    return sorted(path for path in listings[-1].files if not _is_own(path, out, written))


def _is_own(path: Path, out: Path, written: Collection[str]) -> bool:
    """Tells outputs of an earlier call from images that happen to lie in the same folder."""
    return path.name in written and path.parent.resolve() == out.resolve()

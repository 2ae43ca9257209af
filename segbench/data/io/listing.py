"""Listing the pictures below a folder, for training, doctor and `segment` alike.

Files and folders that tools leave behind are passed over, and so are pictures of types that are not read.
What is passed over is counted and named in a warning.
"""

import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from segbench.data.io.files import composed
from segbench.data.io.formats import SUFFIXES

# Besides those that begin with a dot: macOS archives, Synology, QNAP, ext file systems, Windows, Android.
_TOOL_FOLDERS = frozenset(
    {"__macosx", "@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@tmp", "lost+found"}
    | {"$recycle.bin", "system volume information", "recycler", "lost.dir", "__pycache__"}
)
_TOOL_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})
_TOOL_ENDINGS = ("~", ".part", ".partial", ".crdownload", ".filepart", ".tmp", ".bak", ".swp")
# Dropbox (in four languages), Nextcloud, Seafile, Syncthing: beside the file itself stands its other version.
_CONFLICT = re.compile(
    r"(?i)\s*\([^()]*(?:conflicted copy|sfconflict|in konflikt stehende|copie en conflit|copia en conflicto)"
    r"[^()]*\)$|\.sync-conflict-[\w-]+$"
)
# Pictures, and arrays that people use as such. Those in SUFFIXES are read.
_PICTURES = SUFFIXES | set(
    re.findall(
        r"\.\w+",
        """
        .jpg .jpeg .jpe .jfif .png .apng .bmp .dib .tif .tiff .webp .gif .avif .heic .heif .hif .jp2 .j2k .jpf
        .jpx .jxl .ppm .pgm .pbm .pnm .pam .pcx .tga .ico .psd .psb .xcf .svg .svgz .eps .ai .exr .hdr .pfm .dcm
        .nii .mha .mhd .nrrd .img .ecw .sid .vrt .svs .ndpi .mrxs .czi .lif .npy .npz .mat .dng .cr2 .cr3 .nef
        .arw .orf .rw2 .raf .pef .srw .raw
        """,
    )
)
# Control characters and line separators break lists and terminals; lone surrogates are bytes not in UTF-8.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_SHOWN = 4


class Unread(UserWarning):
    """Pictures, or folders, that cannot be read and hence take no part."""


class Leftovers(UserWarning):
    """Pictures in what tools left behind, passed over."""


class Clutter(UserWarning):
    """Files that tools left behind, none of them a picture: only `segbench doctor` mentions them."""


warnings.simplefilter("ignore", Clutter, append=True)


@dataclass
class Listing:
    """What lies below a folder.

    Attributes:
        folder: The folder.
        files: Pictures of the types that are read, and whatever else was asked for, folder by folder.
        unread: Pictures of other types.
        leftovers: Number of files by what was left behind: a folder's name, a file's, or its kind.
        pictures: How many of the leftovers are pictures, hidden files apart.
        closed: One line for each folder that could not be entered.
    """

    folder: Path
    files: list[Path] = field(default_factory=list)
    unread: list[Path] = field(default_factory=list)
    leftovers: Counter[str] = field(default_factory=Counter)
    pictures: int = 0
    closed: list[str] = field(default_factory=list)

    def notes(self) -> Iterator[Warning]:
        """Says in one line each what is not read and what was passed over."""
        if self.unread:
            types = Counter(printable(path.suffix) for path in self.unread)
            counts = [f"{number} {suffix}" for suffix, number in sorted(types.items())]
            names = _listed([printable(path.relative_to(self.folder)) for path in self.unread])
            yield Unread(
                f"{self.folder}: {_listed(counts)} of types that are not read: {names}; left out. Save them"
                " as PNG, images also as JPEG"
            )
        if self.leftovers:
            kinds = [printable(f"{kind} ({number})") for kind, number in sorted(self.leftovers.items())]
            yield (Leftovers if self.pictures else Clutter)(
                f"{self.folder} holds what tools left there: {_listed(kinds)}"
                + (f"; {self.pictures} of these files are pictures" if self.pictures else "")
                + "; passed over"
            )


def survey(
    folder: Path, links: bool = True, apart: Path | None = None, suffixes: Iterable[str] = SUFFIXES
) -> Listing:
    """Lists the pictures below a folder, in subfolders too.

    Args:
        folder: Where to look.
        links: Follow links to folders, each folder once.
        apart: A folder that is not looked into.
        suffixes: File types to list, in lower case.

    Returns:
        The files, none of which was opened, and what was passed over.
    """
    found, wanted = Listing(folder), frozenset(suffixes)
    for where, names in _walk(folder, links, None if apart is None else os.path.realpath(apart), found):
        stems = {name.rpartition(".")[0] for name in names}
        for name in sorted(names):
            stem, dot, suffix = name.rpartition(".")  # text, not paths: less than half the time
            suffix = dot + suffix.lower()
            kind = _leftover(name)
            if kind is None and suffix in wanted:
                original = _CONFLICT.sub("", stem)
                if original == stem or original not in stems:
                    found.files.append(Path(where, name))
                    continue
                kind = "conflicted copies"
            if kind is not None:
                found.leftovers[kind] += 1
                found.pictures += suffix in wanted and not name.startswith(".")
            elif suffix in _PICTURES:
                found.unread.append(Path(where, name))
    return found


def list_files(folder: Path) -> dict[str, Path]:
    """Finds all pictures below a folder, in subfolders too, and warns of what is passed over.

    Args:
        folder: Links to folders are followed, each folder once.

    Returns:
        Path of each picture by its name: relative to the folder, posix, without suffix, in Unicode's composed
        form; sorted.

    Raises:
        ValueError: If two files differ in their suffix alone, or a name is not UTF-8 or has control characters.
    """
    listing, start = survey(folder), len(str(folder / "x")) - 1
    found: dict[str, Path] = {}
    unsafe = []
    for path in listing.files:
        name = str(path)[start:].replace(os.sep, "/")
        key = composed(name.rpartition(".")[0])
        if key in found:
            raise ValueError(
                f"{path} and {found[key].name} would have one name: remove one of them; if one is the mask,"
                " put masks into a folder of their own, or give their names an ending and mask_suffix"
            )
        found[key] = path
        if _UNSAFE.search(name):
            unsafe.append(path)
    if unsafe:
        raise ValueError(_complain_of_names(unsafe))
    if listing.closed:
        warnings.warn(Unread(f"{_listed(listing.closed)} could not be entered; left out"), stacklevel=2)
    for note in listing.notes():
        warnings.warn(note, stacklevel=2)
    return dict(sorted(found.items()))


def subfolders(folder: Path) -> list[str]:
    """Names the folders in a folder, which may be missing, but for those that tools leave behind; sorted."""
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not is_tool_folder(path.name))


def is_tool_folder(name: str) -> bool:
    """Returns the folders that operating systems, notebooks and servers leave behind by their name."""
    return name.startswith(".") or name.lower() in _TOOL_FOLDERS


def printable(path: Path | str) -> str:
    """Writes a name so that any terminal and file takes it: bytes and control characters as escapes."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _walk(folder: Path, links: bool, apart: str | None, found: Listing) -> Iterator[tuple[str, list[str]]]:
    """Lists the files of each folder once, though links lead to it too; under its own name where it has one."""

    def report(error: OSError) -> None:
        found.closed.append(f"{printable(error.filename)} ({error.strerror})")

    seen: set[str] = set()
    waiting = [str(folder)]
    for start in waiting:  # links join at the end, when real folders have had their turn
        for where, folders, names in os.walk(start, onerror=report):
            real = os.path.realpath(where)
            if real in seen or (real == apart and where != str(folder)):
                folders.clear()
                continue
            seen.add(real)
            for name in [name for name in folders if is_tool_folder(name)]:
                folders.remove(name)
                _count(Path(where, name), name, found)
            if links:
                waiting.extend(
                    str(path) for name in sorted(folders) if (path := Path(where, name)).is_symlink()
                )
            yield where, names


def _count(folder: Path, name: str, found: Listing) -> None:
    """Counts the files in a folder that is passed over."""
    files = [Path(file) for _, _, files in os.walk(folder) for file in files]
    found.leftovers[f"{name}/"] += len(files)
    found.pictures += sum(file.suffix.lower() in SUFFIXES and file.name[0] != "." for file in files)


def _leftover(name: str) -> str | None:
    """Names the kind of a file that a tool left behind; None for any other."""
    if name.startswith("._"):
        return "._*"  # AppleDouble: what a Mac knows of the file of that name
    low = name.lower()
    if low.startswith(".") or low in _TOOL_FILES:
        return name
    if low.startswith("~$"):
        return "~$*"
    if not low.endswith(_TOOL_ENDINGS):
        return None
    return next(f"*{ending}" for ending in _TOOL_ENDINGS if low.endswith(ending))


def _listed(items: list[str]) -> str:
    more = len(items) - _SHOWN
    return ", ".join(items[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _complain_of_names(paths: list[Path]) -> str:
    name, others = str(paths[0]), f" ({len(paths) - 1} others likewise)" if len(paths) > 1 else ""
    if any("\ud800" <= letter <= "\udfff" for letter in name):
        return (
            f"{printable(name)}{others}: the file name is not UTF-8: rename it, or all below a folder at once,"
            " by `convmv -r --notest -f latin1 -t utf8 FOLDER` where they come from Windows"
        )
    return f"{printable(name)}{others}: the file name holds a control character or line break: rename it"

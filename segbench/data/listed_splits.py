"""Splits that text files list, as people and other tools write them.

A line names an image, below the root or below the folder of images, with its file type or without. Backslashes,
absolute paths, quotes, `./`, blank lines, comments and a header are understood. A second column, after a tab,
comma, semicolon or blank, names the mask, which then counts.
"""

import difflib
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segbench.data.folder_layout import FolderLayout, fill
from segbench.data.io.files import composed, read_text
from segbench.data.io.formats import SUFFIXES
from segbench.data.spec import Layout, Pair, Split

LIST_SUFFIXES = frozenset({".txt", ".lst", ".list", ".csv", ".tsv"})
_SEPARATOR = re.compile(r"\s*[\t,;]\s*|\s+")
_HEADER = re.compile(
    r"(?i)\W*(images?|img|(image|img|file)_?(path|name|id)|path|file|name)\W*"
    r"((masks?|labels?|(mask|label|annotation)_?(path|name)|annotations?|segmentations?|target|gt)\W*)?"
)


@dataclass(frozen=True)
class ListedSplits(Layout):
    """Splits that text files list, one image per line.

    Attributes:
        files: Finds all pairs, whatever the split.
        lists: Text file of each split, below the root.
    """

    files: FolderLayout
    lists: Mapping[Split, str] = field(default_factory=dict)

    def pairs(self, root: Path, split: Split) -> list[Pair]:
        """Finds the pairs of a split; `predict` means test where it has no list of its own."""
        wanted: Split = "test" if split == "predict" and split not in self.lists else split
        if wanted not in self.lists:
            raise FileNotFoundError(
                f"split '{wanted}' has no list: give it one by --data.init_args.splits '{{{wanted}: A.txt, …}}'"
            )
        images = _Images(root, self.files)
        found = _read(root / self.lists[wanted], wanted, images)
        if found.lost:
            raise ValueError(images.complain(root / self.lists[wanted], found.lost))
        if not found.pairs:
            raise ValueError(f"{root / self.lists[wanted]} is empty: write one image name per line into it")
        for other in () if wanted == "predict" else sorted(self.lists.keys() - {wanted, "predict"}):
            both = sorted(found.pairs.keys() & _read(root / self.lists[other], other, images).pairs.keys())
            if both:
                raise ValueError(
                    f"{both[0]} and {len(both) - 1} others are in {self.lists[wanted]} and in"
                    f" {self.lists[other]}: take them out of one"
                )
        if found.twice:
            warnings.warn(
                f"{root / self.lists[wanted]} lists {found.twice[0]} and {len(found.twice) - 1} others twice;"
                " each counts once",
                stacklevel=2,
            )
        return [found.pairs[name] for name in sorted(found.pairs)]

    def place(self, root: Path, split: Split, index: int) -> Pair:
        """Says where the files of a new pair belong; it must still be added to its list."""
        return self.files.place(root, split, index)

    def tree(self, root: Path) -> str:
        """Describes the expected files."""
        return self.files.tree(root)

    def read_ids(self, pair: Pair) -> NDArray[np.integer] | None:
        """Opens a mask as the folder does."""
        return self.files.read_ids(pair)


@dataclass
class _List:
    """What a list says.

    Attributes:
        pairs: By name.
        twice: Names of images that stand in it more than once.
        lost: Line number and text of each line that names no image.
    """

    pairs: dict[str, Pair] = field(default_factory=dict)
    twice: list[str] = field(default_factory=list)
    lost: list[tuple[int, str]] = field(default_factory=list)


class _Images:
    """The images of a folder, by all that a list may call them."""

    def __init__(self, root: Path, files: FolderLayout) -> None:
        self.root = root
        self.files = files
        self.pairs = files.pairs(root, "predict")  # masks are asked for later
        self._roots = {f"{Path(start).as_posix()}/" for start in (root.absolute(), root.resolve())}

    @cached_property
    def _by_key(self) -> dict[str, Pair]:
        found = {}
        for pair in self.pairs:  # a name counts before a path that happens to be the same
            below = pair.image.relative_to(self.root) if pair.image.is_relative_to(self.root) else pair.image
            found[composed(below.with_suffix("").as_posix())] = pair
        return (
            found
            | {f"{p.name}{self.files.image_suffix}": p for p in self.pairs}
            | {p.name: p for p in self.pairs}
        )

    def find(self, text: str) -> Pair | None:
        """Finds what a list calls an image."""
        return next(
            (self._by_key[key] for key in map(_stem, self._spellings(text)) if key in self._by_key), None
        )

    def columns(self, text: str) -> Iterator[tuple[Pair, str]]:
        """Divides a line into an image and what follows it, where that is possible."""
        for gap in _SEPARATOR.finditer(text.strip()):
            if pair := self.find(text.strip()[: gap.start()]):
                yield pair, text.strip()[gap.end() :]

    def find_mask(self, text: str, pair: Pair) -> Path | None:
        """Finds what a list calls the mask of an image."""
        folders = [self.root, *(self.root / fill(masks, "") for masks in self.files.masks)]
        for spelling in self._spellings(text):
            for folder in folders:
                path = folder / spelling
                if pair.label is not None and _stem(path.as_posix()) == pair.label.with_suffix("").as_posix():
                    return pair.label
                if path.is_file():
                    return path
        return None

    def _spellings(self, text: str) -> Iterator[str]:
        text = text.strip().strip("\"'")
        for spelling in dict.fromkeys((text, text.replace("\\", "/"))):
            start = next((start for start in self._roots if spelling.startswith(start)), "")
            yield os.path.normpath(spelling.removeprefix(start)) if spelling else ""

    def complain(self, path: Path, lost: list[tuple[int, str]]) -> str:
        """Says why a line names no image, and what is nearest."""
        number, text = lost[0]
        spelling = list(self._spellings(text))[-1]
        others = f" ({len(lost) - 1} other lines neither)" if len(lost) > 1 else ""
        line = f"{path}, line {number}: '{text}' is not an image of {self.root}{others}"
        for pair, mask in self.columns(text):
            return (
                f"{path}, line {number}: '{mask}' is not the mask of {pair.image.name}{others}: write the image"
                " alone, or the path of its mask behind it"
            )
        if spelling.startswith("/") or re.match(r"[A-Za-z]:/", spelling):
            return f"{line}: it is an absolute path elsewhere; write names as {self._example()}"
        if (self.root / spelling).is_file():
            return f"{line}, though the file is there: expected {self.files.tree(self.root)}"
        near = difflib.get_close_matches(_stem(spelling), list(self._by_key), 1)
        return f"{line}: {f'did you mean {near[0]}?' if near else f'write names as {self._example()}'}"

    def _example(self) -> str:
        return f"'{self.pairs[0].name}'"


def _read(path: Path, split: Split, images: _Images) -> _List:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path} for split '{split}': write one image name per line into it")
    found = _List()
    begun = False
    for number, text in enumerate(read_text(path).split("\n"), 1):
        if not text.strip():
            continue
        pair = _pair(text, images)
        if pair is None:
            if not (text.lstrip().startswith("#") or (not begun and _HEADER.fullmatch(text))):
                found.lost.append((number, text.strip()))
        elif pair.name in found.pairs:
            if pair != found.pairs[pair.name]:
                raise ValueError(f"{path}, line {number}: {pair.name} has another mask before: take one out")
            found.twice.append(pair.name)
        else:
            found.pairs[pair.name] = pair
        begun = begun or not text.lstrip().startswith("#")
    return found


def _pair(text: str, images: _Images) -> Pair | None:
    """Understands a line: an image, or an image and its mask."""
    if pair := images.find(text):
        return pair
    for pair, mask in images.columns(text):
        if not mask or mask.startswith("#"):
            return pair
        if label := images.find_mask(mask, pair):
            return pair._replace(label=label)
    return None


def _stem(text: str) -> str:
    """Takes the file type away, if it is one of images, and composes accents."""
    stem, dot, suffix = text.rpartition(".")
    return composed(stem if dot + suffix.lower() in SUFFIXES else text)

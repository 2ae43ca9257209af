"""Splits of a folder that has none, drawn from the names of its images."""

import filecmp
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from segbench.data.folder_layout import FolderLayout
from segbench.data.spec import Layout, Pair, Split

OTHER_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("training", "Train", "trainset"),
    "val": ("validation", "valid", "dev", "Val"),
    "test": ("testing", "Test", "testset"),
}
"""What else the folders of splits are called."""


# What file managers and browsers add to the name of a copy, in a few languages.
_COPY = re.compile(
    r"(?i)^(?:copy of|kopie von|copie de|copia de|copia di) |"
    r"[ _-]*(?:\(\d+\)|\(?(?:another |\d+\w\w )?(?:copy|kopie|copie|copia)(?: ?\(?\d+\)?)?\)?)$"
)


def draw(name: str, salt: str = "") -> float:
    """Computes a name's random number in [0, 1): the same on any machine, whatever else is in the folder."""
    return int.from_bytes(hashlib.sha256((salt + name).encode()).digest()[:6]) / 2**48


def divide(names: Iterable[str], shares: Mapping[Split, float], salt: str = "") -> dict[str, Split]:
    """Divides names at random. A name that is added later moves none of the others, unless there are few.

    Args:
        names: In any order.
        shares: Of test and val, or one of them; the rest is for training.
        salt: Another one gives another division.

    Returns:
        Split of each name; if there are enough names, no split is empty.
    """
    drawn = sorted((draw(name, salt), name) for name in set(names))
    splits: dict[str, Split] = {name: "train" for _, name in drawn}
    held_out: list[Split] = [split for split in ("test", "val") if split in shares]
    start, limit = 0, 0.0
    for place, split in enumerate(held_out):
        limit += shares[split]
        due = sum(number < limit for number, _ in drawn) - start
        spare = len(drawn) - start - (len(held_out) - place)  # one stays for each of the others
        stop = start + min(max(due, 1), max(spare, 0))
        splits |= {name: split for _, name in drawn[start:stop]}
        start = stop
    return splits


def originals(images: Mapping[str, Path]) -> dict[str, str]:
    """Finds copies of other images, by a name such as `a (1)` or `a - Copy` and equal bytes.

    Args:
        images: File of each name.

    Returns:
        Name of the original of each copy.
    """
    found = {}
    for name, path in images.items():
        folder, slash, last = name.rpartition("/")
        original = folder + slash + _COPY.sub("", last)
        if original != name and original in images and filecmp.cmp(path, images[original], shallow=False):
            found[name] = original
    return found


@dataclass(frozen=True)
class DrawnSplits(Layout):
    """Splits drawn from all pairs of a folder; a run folder says which image was in which.

    Attributes:
        files: Finds all pairs, whatever the split.
        shares: Of val and test.
        seed: Another one gives other splits.
    """

    own_splits: ClassVar[bool] = True

    files: FolderLayout
    shares: Mapping[Split, float]
    seed: int = 0

    def __post_init__(self) -> None:
        right = {"val", "test"} >= set(self.shares) and all(share > 0 for share in self.shares.values())
        if not right or sum(self.shares.values()) >= 1:
            raise ValueError(
                f"splits={dict(self.shares)}: give the shares of val and test, as in '{{val: 0.1, test: 0.1}}';"
                " the rest is for training"
            )

    def pairs(self, root: Path, split: Split) -> list[Pair]:
        """Finds the pairs of a split; `predict` means test."""
        wanted: Split = "test" if split == "predict" else split
        if wanted != "train" and wanted not in self.shares:
            raise FileNotFoundError(
                f"split '{wanted}' has no share: give it one by --data.init_args.splits '{{{wanted}: 0.1, …}}'"
            )
        self._refuse_folders(root)
        pairs = self.files.pairs(root, "train")
        copied = originals({pair.name: pair.image for pair in pairs})
        splits = divide((pair.name for pair in pairs if pair.name not in copied), self.shares, str(self.seed))
        found = [pair for pair in pairs if splits[copied.get(pair.name, pair.name)] == wanted]
        if not found:
            raise ValueError(f"{root} has {len(pairs)} images, too few for a split '{wanted}': add more")
        return found

    def place(self, root: Path, split: Split, index: int) -> Pair:
        """Says where a new pair belongs; `pairs` finds it in its split if there are images of all."""
        test, val = self.shares.get("test", 0.0), self.shares.get("val", 0.0)
        lower, upper = {"train": (test + val, 1.0), "val": (test, test + val)}.get(split, (0.0, test))
        for number in range(index * 10**4, (index + 1) * 10**4):
            pair = self.files.place(root, split, number)
            if lower <= draw(pair.name, str(self.seed)) < upper:
                return pair
        raise ValueError(f"split '{split}' has too small a share to place an image in")

    def tree(self, root: Path) -> str:
        """Describes the expected files."""
        return self.files.tree(root)

    def read_ids(self, pair: Pair) -> NDArray[np.integer] | None:
        """Opens a mask as the folder does."""
        return self.files.read_ids(pair)

    def _refuse_folders(self, root: Path) -> None:
        for template in self.files.images:
            pattern = template if "{split}" in template else f"{template}/{{split}}"
            there: dict[Split, str] = {}
            for split, others in OTHER_NAMES.items():
                for name in (split, *others):
                    if (root / pattern.format(split=name)).is_dir():
                        there.setdefault(split, name)
            if len(there) < 2:
                continue
            folders = " and ".join(pattern.format(split=name) for name in there.values())
            remedy = "take splits out of the configuration"
            if any(split != name for split, name in there.items()):
                remedy = f"let splits be {there}"
            if pattern != template:
                remedy += f" and images {pattern}"
            raise ValueError(
                f"splits={dict(self.shares)} would draw from {folders} of {root} together: {remedy}, or take"
                " the images out of these folders"
            )

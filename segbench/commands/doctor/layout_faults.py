"""Faults of folders: splits that are called otherwise, masks whose names end otherwise."""

import warnings
from collections.abc import Container, Sequence
from dataclasses import replace
from difflib import SequenceMatcher
from heapq import nlargest
from pathlib import Path
from typing import Any

from segbench.commands.doctor.examine import below
from segbench.commands.doctor.finding import Finding
from segbench.data.base import SegmentationDataModule
from segbench.data.cityscapes import CityscapesLayout, LabelFiles
from segbench.data.folder_layout import FolderLayout, fill
from segbench.data.io.listing import Clutter, Leftovers, Unread, list_files, subfolders
from segbench.data.spec import Layout, Pair, Split
from segbench.data.splits import OTHER_NAMES

SPLITS: tuple[Split, ...] = ("train", "val", "test")

_AFFIXES = ("image_prefix", "image_suffix", "mask_prefix", "mask_suffix")
_TRIALS = 4  # mask names that are compared with an image's; each costs a listing of the folder


def list_pairs(
    data: SegmentationDataModule, accepted: Container[str]
) -> tuple[dict[Split, list[Pair]], list[Finding]]:
    """Lists the files of all splits.

    Args:
        data: Only its options are used; nothing is opened.
        accepted: Options that its class has.

    Returns:
        The pairs that were found, and what was wrong with the folders.
    """
    pairs: dict[Split, list[Pair]] = {}
    findings = []
    for split in SPLITS:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                pairs[split] = data.pairs(split)
            except (FileNotFoundError, ValueError) as error:
                findings.append(_absent_split(data, split, error, accepted))
        findings += [_as_finding(w.message) for w in caught]
        if split in pairs and all(pair.label in {None, pair.image} for pair in pairs[split]):
            findings += (
                _other_names(data, split, pairs[split])
                or _other_folder(data, split, pairs[split], accepted)
                or _other_names(data, split, pairs[split], beside=True)
            )
    once: dict[tuple[str, str], Finding] = {}
    for finding in findings:
        once.setdefault((finding.name, finding.text), finding)
    return pairs, list(once.values())


def _as_finding(message: Warning | str) -> Finding:
    """Turns what a layout warns of into a finding."""
    if isinstance(message, Leftovers | Clutter):  # copies that take no part do no harm
        return Finding("note", "passed over", str(message))
    if isinstance(message, Unread):
        return Finding("warning", "files not read", str(message))
    name = "masks without image" if "masks have no image" in str(message) else "names without image"
    name = "listed twice" if "twice; each counts once" in str(message) else name
    return Finding("warning", name, str(message))


def _absent_split(
    data: SegmentationDataModule, split: Split, error: Exception, accepted: Container[str]
) -> Finding:
    if isinstance(data.layout, FolderLayout):
        for name in OTHER_NAMES[split]:
            layout = replace(data.layout, splits={**data.layout.splits, split: name})
            if _labelled(layout, data.root, split):
                text = f"the folder of split '{split}' is called '{name}'"
                return Finding("error", "split of another name", text, options={"splits": {split: name}})
        undivided = replace(data.layout, splits=dict.fromkeys(SPLITS, ""))
        divided = _labelled(data.layout, data.root, "train")
        divided = divided or any(_has_folders(data.layout, data.root, name) for name in ("train", "val"))
        if "split_seed" in accepted and not divided:
            labelled = _labelled(undivided, data.root, "train")
            together = undivided if labelled else _renamed(undivided, data.root, "train")
            if together is not None:
                text = "images and masks lie in one folder each, without splits"
                options = {"splits": {"val": 0.1, "test": 0.1}} | _options(undivided, together)
                return Finding("error", "no splits", text, options=options)
    # Training does not need a test split.
    name = "missing split" if isinstance(error, FileNotFoundError) else "unusable split"
    return Finding("note" if split == "test" else "error", name, str(error))


def _has_folders(layout: FolderLayout, root: Path, split: Split) -> bool:
    """Returns whether a split has a folder, with masks or without."""
    name = layout.splits.get(split, split)
    folders = {folder.format(split=name) for folder in layout.images if "{split}" in folder}
    return any(folder != "images/" and (root / folder).is_dir() for folder in folders | {f"images/{name}"})


def _other_names(
    data: SegmentationDataModule, split: Split, pairs: Sequence[Pair], beside: bool = False
) -> list[Finding]:
    """Finds what mask names have before and after the part they share with the image names.

    Args:
        data: The dataset.
        split: Without masks.
        pairs: Its images.
        beside: Look for the masks in the folder of the images.
    """
    if isinstance(data.layout, CityscapesLayout):
        return _other_labels(data.layout, data.root, split)
    layout = getattr(data.layout, "files", data.layout)  # of splits that are drawn or listed
    if not isinstance(layout, FolderLayout):
        return []
    changed = _renamed(replace(layout, masks=layout.images) if beside else layout, data.root, split)
    if changed is None:
        return []
    text = (
        f"masks are called {changed.mask_prefix}NAME{changed.mask_suffix} where images are called"
        f" {changed.image_prefix}NAME{changed.image_suffix}"
    )
    files = [below(data.root, pairs[0].image)]
    return [Finding("error", "names differ", text, files, _options(layout, changed))]


def _options(layout: FolderLayout, changed: FolderLayout) -> dict[str, Any]:
    """Lists the options with which one layout becomes the other."""
    found: dict[str, Any] = {name: getattr(changed, name) for name in (*_AFFIXES, "masks")}
    found = {name: value for name, value in found.items() if value != getattr(layout, name)}
    if "masks" in found:
        found["masks"] = list(changed.masks) if len(changed.masks) > 1 else changed.masks[0]
    return found


def _renamed(layout: FolderLayout, root: Path, split: Split) -> FolderLayout | None:
    """Finds prefixes and suffixes with which more than half of the images have a mask."""
    images, masks = _files(layout.images, layout, root, split), _files(layout.masks, layout, root, split)
    first = next(iter(images), "").rpartition("/")[2]
    beside = layout.images == layout.masks
    needed = max(2.0, 0.4 * len(images)) if beside else 0.5 * len(images)
    names = {name.rpartition("/")[2] for name in masks} - ({first} if beside else set())
    matches = ((SequenceMatcher(None, first, name, False).find_longest_match(), name) for name in sorted(names))
    for (i, j, size), name in nlargest(_TRIALS, matches, key=lambda found: found[0].size):
        changed = replace(
            layout,
            image_prefix=first[:i],
            image_suffix=first[i + size :],
            mask_prefix=name[:j],
            mask_suffix=name[j + size :],
        )
        if size and _labelled(changed, root, split) >= needed:
            return changed
    return None


def _other_folder(
    data: SegmentationDataModule, split: Split, pairs: Sequence[Pair], accepted: Container[str]
) -> list[Finding]:
    """Finds masks in a folder of another name, such as labels or SegmentationClass."""
    layout = getattr(data.layout, "files", data.layout)  # of splits that are drawn or listed
    if "masks" not in accepted or not isinstance(layout, FolderLayout):
        return []
    name = layout.splits.get(split, split)
    for images, masks in zip(layout.images, layout.masks, strict=True):
        within, _, last = masks.removesuffix("/{split}").rpartition("/")
        for other in subfolders(data.root / fill(within, name)):
            template = f"{within}/{other}".lstrip("/") + masks[len(f"{within}/{last}".lstrip("/")) :]
            found = replace(layout, masks=(template,) * len(layout.masks))
            if template != images and _labelled(found, data.root, split) > len(pairs) / 2:
                text = f"there are no masks in '{masks}', but in '{template}'"
                return [Finding("error", "masks elsewhere", text, options={"masks": template})]
    return []


def _other_labels(layout: CityscapesLayout, root: Path, split: Split) -> list[Finding]:
    """Finds labels in the other ids of Cityscapes, under their own names."""
    other: LabelFiles = "labelTrainIds" if layout.labels == "labelIds" else "labelIds"
    if not _labelled(replace(layout, labels=other), root, split):
        return []
    text = f"there are no masks called {layout.labels}, but {other}"
    return [Finding("error", "names differ", text, options={"labels": other})]


def _files(templates: Sequence[str], layout: FolderLayout, root: Path, split: Split) -> list[str]:
    """Names the files in the folders of a split."""
    folders = (root / fill(template, layout.splits.get(split, split)) for template in templates)
    return [name for folder in folders if folder.is_dir() for name in list_files(folder)]


def _labelled(layout: Layout, root: Path, split: Split) -> int:
    """Counts the images for which a layout finds masks."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return sum(pair.label is not None for pair in layout.pairs(root, split))
    except (FileNotFoundError, ValueError):
        return 0

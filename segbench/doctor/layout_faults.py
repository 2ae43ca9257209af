"""Faults of folders: splits that are called otherwise, masks whose names end otherwise."""

import warnings
from collections.abc import Container, Iterator, Sequence
from dataclasses import replace
from heapq import nlargest
from itertools import takewhile
from pathlib import Path

from segbench.data.base import SegmentationDataModule
from segbench.data.cityscapes import CityscapesLayout, LabelFiles
from segbench.data.folder_layout import FolderLayout, fill
from segbench.data.listing import Clutter, Leftovers, Unread, list_files, subfolders
from segbench.data.spec import Layout, Pair, Split
from segbench.data.splits import OTHER_NAMES
from segbench.doctor.examine import below
from segbench.doctor.finding import Finding

SPLITS: tuple[Split, ...] = ("train", "val", "test")

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
        if split in pairs and all(pair.label is None for pair in pairs[split]):
            findings += _other_suffix(data, split, pairs[split]) or _other_folder(
                data, split, pairs[split], accepted
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
        if "split_seed" in accepted and not divided and _labelled(undivided, data.root, "train"):
            text = "images and masks lie in one folder each, without splits"
            return Finding("error", "no splits", text, options={"splits": {"val": 0.1, "test": 0.1}})
    # Whoever has no test split trains none the worse.
    name = "missing split" if isinstance(error, FileNotFoundError) else "unusable split"
    return Finding("note" if split == "test" else "error", name, str(error))


def _has_folders(layout: FolderLayout, root: Path, split: Split) -> bool:
    """Tells whether a split has a folder, with masks or without."""
    name = layout.splits.get(split, split)
    folders = {folder.format(split=name) for folder in layout.images if "{split}" in folder}
    return any(folder != "images/" and (root / folder).is_dir() for folder in folders | {f"images/{name}"})


def _other_suffix(data: SegmentationDataModule, split: Split, pairs: Sequence[Pair]) -> list[Finding]:
    """Finds what mask names have after the part they share with the image names."""
    if isinstance(data.layout, CityscapesLayout):
        return _other_labels(data.layout, data.root, split)
    if not isinstance(data.layout, FolderLayout):
        return []
    name = pairs[0].name + data.layout.image_suffix
    masks = nlargest(_TRIALS, _masks(data.layout, data.root, split), key=lambda mask: _common(mask, name))
    for mask in masks:
        common = _common(mask, name)
        layout = replace(data.layout, image_suffix=name[common:], mask_suffix=mask[common:])
        if _labelled(layout, data.root, split) > len(pairs) / 2:
            text = f"mask names end in '{layout.mask_suffix}' where image names end in '{layout.image_suffix}'"
            options = {"image_suffix": layout.image_suffix, "mask_suffix": layout.mask_suffix}
            changed = {key: value for key, value in options.items() if value != getattr(data.layout, key)}
            return [Finding("error", "names differ", text, [below(data.root, pairs[0].image)], changed)]
    return []


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


def _masks(layout: FolderLayout, root: Path, split: Split) -> Iterator[str]:
    for masks in layout.masks:
        folder = root / masks.format(split=layout.splits.get(split, split))
        with warnings.catch_warnings():  # the split itself has said them
            warnings.simplefilter("ignore")
            yield from list_files(folder) if folder.is_dir() else ()


def _common(one: str, other: str) -> int:
    """Counts the characters with which both names begin."""
    return sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(one, other, strict=False)))


def _labelled(layout: Layout, root: Path, split: Split) -> int:
    """Counts the images for which a layout finds masks."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return sum(pair.label is not None for pair in layout.pairs(root, split))
    except (FileNotFoundError, ValueError):
        return 0

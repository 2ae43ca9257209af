"""Faults of splits: images in two of them, classes absent from one, masks without a class."""

from collections.abc import Container, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from segbench.commands.doctor.examine import Record
from segbench.commands.doctor.finding import Finding, Level, count, leave_out
from segbench.commands.doctor.id_faults import training_ids
from segbench.data.spec import DatasetSpec, Split


def split_findings(
    records: Sequence[Record], accepted: Container[str], eval_batch_size: int = 1
) -> list[Finding]:
    """Finds what is wrong between the images of splits, whatever their masks say.

    Args:
        records: All pairs of all splits.
        accepted: Options that the dataset's class has.
        eval_batch_size: Images in a batch of evaluation, which must have one size.

    Returns:
        The findings.
    """
    splits = list(dict.fromkeys(record.split for record in records))
    findings = [f for pair in combinations(splits, 2) for f in _shared(records, *pair, accepted)]
    return [*findings, *_repeated(records), *_batches(records, eval_batch_size)]


def class_findings(records: Sequence[Record], spec: DatasetSpec) -> list[Finding]:
    """Finds what splits do not show, once ids are known to mean what they should.

    Args:
        records: All pairs of all splits.
        spec: Classes, and what ids mean.

    Returns:
        The findings.
    """
    return [*_empty(records, spec), *_absent(class_pixels(records, spec) or {}, spec)]


def class_pixels(records: Sequence[Record], spec: DatasetSpec) -> dict[Split, NDArray[np.int64]] | None:
    """Counts the pixels of each class.

    Returns:
        `(K,)` of each split, or `None` if some id is not a class.
    """
    meant = training_ids(dict.fromkeys((i for record in records for i in record.ids), 0), spec)
    counts: dict[Split, NDArray[np.int64]] = {}
    for record in (record for record in records if record.ids):
        row = counts.setdefault(record.split, np.zeros(spec.num_classes, np.int64))
        for i, pixels in record.ids.items():
            if i not in meant:
                return None
            if meant[i] != spec.ignore_index:
                row[meant[i]] += pixels
    return counts


def _shared(records: Sequence[Record], one: Split, other: Split, accepted: Container[str]) -> list[Finding]:
    """Finds images of the first split in the second, by their pixels."""
    first = {record.digest: record for record in records if record.split == one and record.digest}
    both = [record for record in records if record.split == other and record.digest in first]
    if not both:
        return []
    here = sum(record.split == one for record in records)
    same_file = all(first[record.digest].image == record.image for record in both)
    if one != "train" and same_file:
        return [Finding("note", "one split twice", f"{other} shows the files of {one}")]
    digests = {record.digest for record in both}
    leaks = [record for record in records if record.split == one and record.digest in digests]
    text = f"{count(len(leaks), here, 'image')} of {one} are in {other} as well, which flatters its scores"
    files = [name for r in both for name in dict.fromkeys((first[r.digest].image, r.image))]
    level: Level = "error" if one == "train" else "warning"
    if not same_file:
        options = leave_out(leaks, records)
    elif {part for record in records for part in record.image.split("/")[:-1]} & {"train", "val"}:
        options = {}  # there are folders of splits, which images or splits should name
    else:  # one folder for all splits: to leave a file out would take it from both
        options = {"splits": {"val": 0.1, "test": 0.1}} if "split_seed" in accepted else {}
    return [Finding(level, "images in two splits", text, files, options, f"or take them out of {other}")]


def _repeated(records: Sequence[Record]) -> list[Finding]:
    seen: dict[tuple[str, str], Record] = {}
    again = [
        record
        for record in records
        if record.digest and seen.setdefault((record.split, record.digest), record) is not record
    ]
    if not again:
        return []
    text = f"{count(len(again), len(records), 'image')} repeat another of their split"
    return [Finding("note", "repeated images", text, [record.image for record in again])]


def _batches(records: Sequence[Record], eval_batch_size: int) -> list[Finding]:
    findings = []
    for split in dict.fromkeys(record.split for record in records if record.split != "train"):
        sizes = {record.size for record in records if record.split == split and record.size}
        if eval_batch_size > 1 and len(sizes) > 1:
            text = (
                f"{split} has images of {len(sizes)} sizes, which do not fit into batches of {eval_batch_size}"
            )
            findings.append(Finding("error", "uneven batches", text, options={"eval_batch_size": 1}))
    return findings[:1]


def _empty(records: Sequence[Record], spec: DatasetSpec) -> list[Finding]:
    """Finds masks in which no pixel has a class."""
    read = [record for record in records if record.ids]
    meant = training_ids(dict.fromkeys((i for record in read for i in record.ids), 0), spec)
    void = {i for i, label in meant.items() if label == spec.ignore_index}
    bad = [record for record in read if record.ids.keys() <= void]
    if not bad:
        return []
    text = f"{count(len(bad), len(records), 'mask')} have no pixel with a class"
    files = [record.label or record.image for record in bad]
    level: Level = "error" if len(bad) == len(read) else "warning"
    return [Finding(level, "empty masks", text, files, leave_out(bad, records))]


def _absent(counts: dict[Split, NDArray[np.int64]], spec: DatasetSpec) -> list[Finding]:
    """Finds classes that a split never shows."""
    findings = []
    everywhere = sum(counts.values(), np.zeros(spec.num_classes, np.int64))
    if spec.num_classes > 1 and np.count_nonzero(everywhere) == 1:
        only = spec.classes[int(everywhere.argmax())]
        text = f"all pixels of all masks are '{only}': there is nothing to learn"
        return [
            Finding("error", "a single class", text, advice="see whether the masks are those of this dataset")
        ]
    for split, pixels in counts.items():
        absent = [spec.classes[label] for label in np.flatnonzero(pixels == 0)]
        if absent and pixels.any():
            shown = ", ".join(absent[:8]) + (", …" if len(absent) > 8 else "")
            text = f"{len(absent)} of {spec.num_classes} classes never appear in {split}: {shown}"
            advice = (
                "they cannot be learnt: add images that show them, or take them out of the classes"
                if split == "train"
                else "their IoU is undefined there, or 0 once predicted: means over classes depend on that"
            )
            level: Level = "warning" if split == "train" else "note"
            findings.append(Finding(level, "absent classes", text, advice=advice))
    return findings

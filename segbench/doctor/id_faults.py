"""Faults of the numbers in masks: which ids occur over the whole dataset, and what convention they betray."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from segbench.data.cityscapes_classes import CITYSCAPES_SPEC
from segbench.data.spec import DatasetSpec
from segbench.doctor.examine import Record
from segbench.doctor.finding import Finding, count

_GREY_VALUES = 32  # more unknown ids than this are no ids at all


def training_ids(ids: Mapping[int, int], spec: DatasetSpec) -> dict[int, int]:
    """Says what the ids of mask files mean in training.

    Returns:
        Training id of each file id; those without one are left out.
    """
    meant = {}
    for i in ids:
        try:
            meant[i] = int(spec.decode(np.array([[i]]))[0, 0])
        except ValueError:
            continue
    return meant


def id_findings(records: Sequence[Record], spec: DatasetSpec) -> list[Finding]:
    """Names the convention that the masks follow, where it is not that of the dataset.

    Each rule looks at the ids of all masks together; the first that recognises them speaks.

    Args:
        records: All pairs of all splits.
        spec: Classes, and what ids mean so far.

    Returns:
        At most one fault, and a note on ignored pixels if there is none.
    """
    pixels: Counter[int] = Counter()
    for record in records:
        pixels.update(record.ids)
    if not pixels:
        return []
    present = sorted(pixels)
    meant = training_ids(pixels, spec)
    unknown = [i for i in present if i not in meant]
    rules = (
        _palette_order(records, meant, spec),
        _cityscapes(present, unknown, spec),
        _binary(present, meant, spec),
        _other_ignore_index(unknown, spec),
        _one_based(present, unknown, spec),
        _spread(present, unknown, spec),
        _one_too_many(unknown, spec),
        _out_of_range(present, unknown, spec),
    )
    for finding in rules:
        if finding is not None:
            touched = set(finding.options.get("remap", ())) | set(unknown)
            files = [r.label or r.image for r in records if touched & r.ids.keys()]
            return [finding._replace(files=files)]
    return _ignored(records, pixels, meant, spec)


def _palette_order(records: Sequence[Record], meant: Mapping[int, int], spec: DatasetSpec) -> Finding | None:
    """Compares the colours of palette masks with those of the classes."""
    coloured = [record for record in records if record.palette]
    colors: dict[int, set[tuple[int, int, int]]] = {}
    for record in coloured:
        for i, color in record.palette.items():
            colors.setdefault(i, set()).add(color)
    classes = {color: label for label, color in enumerate(spec.palette) if spec.palette.count(color) == 1}
    named = {i: next(iter(c)) for i, c in colors.items() if meant.get(i) != spec.ignore_index}
    if not named or not set(named.values()) <= classes.keys() or any(len(c) > 1 for c in colors.values()):
        return None  # its colours are of no consequence, as in most palette masks
    remap = {i: classes[color] for i, color in sorted(named.items()) if meant.get(i) != classes[color]}
    if not remap:
        return None
    i, label = next(iter(remap.items()))
    text = (
        f"the palettes of {count(len(coloured), len(records), 'mask')} have the colours of the classes in"
        f" another order: index {i} is {spec.classes[label]} by its colour"
    )
    return Finding("error", "palette order", text, options={"remap": remap})


def _cityscapes(present: Sequence[int], unknown: Sequence[int], spec: DatasetSpec) -> Finding | None:
    """Tells labelIds, 0 to 33, from trainIds, 0 to 18, where the classes are those of Cityscapes."""
    if [name.lower() for name in spec.classes] != list(CITYSCAPES_SPEC.classes):
        return None
    official = dict(CITYSCAPES_SPEC.remap)
    if unknown and set(present) <= official.keys() | {spec.ignore_index}:
        remap = {i: label if label < 19 else spec.ignore_index for i, label in official.items()}
        text = f"masks hold ids up to {max(unknown)}: these are labelIds, where trainIds 0..18 are expected"
        return Finding("error", "labelIds for trainIds", text, options={"remap": remap})
    if spec.remap and not unknown and set(present) <= {*range(19), 255} and 255 in present:
        text = "masks hold ids 0..18 and 255: these are trainIds, where labelIds 0..33 are expected"
        remap = {i: i for i in range(19)}
        return Finding("error", "trainIds for labelIds", text, options={"remap": remap})
    return None


def _binary(present: Sequence[int], meant: Mapping[int, int], spec: DatasetSpec) -> Finding | None:
    if spec.num_classes != 2 or list(present) not in ([0, 255], [255]) or meant.get(255) == 1:
        return None
    means = "no class" if meant.get(255) == spec.ignore_index else "nothing"
    text = f"masks hold 0 and 255, and 255 means {means}: '{spec.classes[1]}' has no pixel"
    return Finding("error", "0/255 masks", text, options={"remap": {255: 1}})


def _other_ignore_index(unknown: Sequence[int], spec: DatasetSpec) -> Finding | None:
    if list(unknown) != [255]:
        return None
    text = f"masks hold 255, as many do where there is no class, but ignore_index is {spec.ignore_index}"
    return Finding("error", "255 as ignore", text, options={"remap": {255: spec.ignore_index}})


def _one_based(present: Sequence[int], unknown: Sequence[int], spec: DatasetSpec) -> Finding | None:
    if list(unknown) != [spec.num_classes] or 0 in present:
        return None
    n = spec.num_classes
    text = f"masks count the {n} classes from 1 to {n}, not from 0 to {n - 1}: each would be taken for the next"
    remap = {0: spec.ignore_index} | {i: i - 1 for i in range(1, n + 1)}
    return Finding("error", "ids 1..N", text, options={"remap": remap})


def _spread(present: Sequence[int], unknown: Sequence[int], spec: DatasetSpec) -> Finding | None:
    """Recognises ids that were spread over the grey values, so that viewers show them."""
    n = spec.num_classes
    if not unknown or len(present) != n or n < 2 or present[0] != 0:
        return None
    even = [i * present[-1] / (n - 1) for i in range(n)]
    if any(abs(i - grey) > 1 for i, grey in zip(present, even, strict=True)):
        return None
    text = f"masks hold {n} evenly spaced grey values ({', '.join(map(str, present[:4]))}…) for {n} classes"
    remap = {i: label for label, i in enumerate(present) if i != label}
    return Finding("error", "spread ids", text, options={"remap": remap})


def _one_too_many(unknown: Sequence[int], spec: DatasetSpec) -> Finding | None:
    n = spec.num_classes
    if list(unknown) != [n]:
        return None
    text = f"masks hold ids 0..{n} for {n} classes: one of them is no class, by this YAML the last"
    advice = (
        f"if it is 0 that means no class, let remap be {{0: {spec.ignore_index}, 1: 0, 2: 1, …, {n}: {n - 1}}};"
        " if it is a class, add its name to classes"
    )
    return Finding("error", "ids 0..N", text, options={"remap": {n: spec.ignore_index}}, advice=advice)


def _out_of_range(present: Sequence[int], unknown: Sequence[int], spec: DatasetSpec) -> Finding | None:
    if not unknown:
        return None
    n = spec.num_classes
    shown = ", ".join(map(str, unknown[:8])) + (", …" if len(unknown) > 8 else "")
    if len(unknown) > _GREY_VALUES or unknown[0] < 0 or unknown[-1] > 0xFFFF:
        text = f"masks hold {len(present)} different numbers ({shown}): grey values, not the ids of {n} classes"
        advice = "save one class id per pixel; masks resized with interpolation look like this as well"
        return Finding("error", "grey values", text, advice=advice)
    text = f"masks hold {shown}, but ids of {n} classes go from 0 to {n - 1}"
    remap = dict.fromkeys(unknown, spec.ignore_index)
    advice = "this YAML takes them for no class; send ids that are classes to their training ids instead"
    return Finding("error", "ids out of range", text, options={"remap": remap}, advice=advice)


def _ignored(
    records: Sequence[Record], pixels: Mapping[int, int], meant: Mapping[int, int], spec: DatasetSpec
) -> list[Finding]:
    void = [i for i in sorted(pixels) if meant[i] == spec.ignore_index]
    if not void:
        return []
    share = sum(pixels[i] for i in void) / sum(pixels.values())
    text = (
        f"{share:.1%} of all pixels have no class (id {', '.join(map(str, void[:8]))}) and are not trained on"
    )
    files = [record.label or record.image for record in records if set(void) & record.ids.keys()]
    return [Finding("warning" if share > 0.5 else "note", "ignored pixels", text, files)]

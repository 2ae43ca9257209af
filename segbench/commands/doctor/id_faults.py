"""Faults of the numbers in masks: which ids occur over the whole dataset, and what convention they betray."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from segbench.commands.doctor.examine import Record
from segbench.commands.doctor.finding import Finding, Level, count
from segbench.data.ade20k import ADE20K_SPEC
from segbench.data.cityscapes_classes import CITYSCAPES_SPEC
from segbench.data.spec import DatasetSpec

_GREY_VALUES = 32  # more unknown ids than this cannot be ids
_CONVERT = "convert these to the ids of the others; remap means the same in all files"


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
    # A table, merge or remap that gives ids another meaning than their own may be wrong itself.
    count_up = all(label == i or (i == 0 and label == spec.ignore_index) for i, label in meant.items())
    rules = (
        _one_class(present, spec),
        _mixed_binary(records, meant, spec),
        _mixed_cityscapes(records, spec),
        _mixed_shift(records, present, spec),
        _converted(present, unknown, spec),
        _expanded_palette(present, unknown, spec),
        _palette_order(records, meant, spec),
        _cityscapes(present, meant, spec),
        _binary(present, meant, spec),
        _other_ignore_index(unknown, spec),
        _one_based(present, unknown, spec) if count_up else None,
        _spread(present, unknown, spec) if count_up else None,
        _one_too_many(unknown, spec) if count_up else None,
        _out_of_range(present, unknown, spec, count_up),
    )
    for finding in rules:
        if finding is not None:
            touched = set(finding.options.get("remap", ())) | set(unknown)
            files = [r.label or r.image for r in records if touched & r.ids.keys()]
            return [finding if finding.files else finding._replace(files=files)]
    return [*_by_color(records, spec), *_ignored(records, pixels, meant, spec)]


def _by_color(records: Sequence[Record], spec: DatasetSpec) -> list[Finding]:
    """Says which palette masks were read by their colours."""
    read = [record for record in records if record.by_color]
    if not read:
        return []
    names = dict(zip(spec.palette, spec.classes, strict=True))
    palette = read[0].palette
    i = next((i for i in palette if spec.palette[i : i + 1] != (palette[i],)), min(palette))
    text = (
        f"{count(len(read), len(records), 'mask')} are read by the colours of their palettes, whose order is"
        f" not that of the classes: in the first, index {i} is {names.get(palette[i], 'no class')}"
    )
    files = [record.label or record.image for record in read]
    advice = "if the index is the class id all the same, set indexed_masks to ids"
    return [Finding("note", "palette order", text, files, advice=advice)]


def _palette_order(records: Sequence[Record], meant: Mapping[int, int], spec: DatasetSpec) -> Finding | None:
    """Compares the colours of palette masks with those of the classes."""
    coloured = [record for record in records if record.palette and not record.by_color]
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
    others = [record for record in records if record.ids and not record.palette]
    i, label = next(iter(remap.items()))
    text = (
        f"the palettes of {count(len(coloured), len(records), 'mask')} have the colours of the classes in"
        f" another order: index {i} is {spec.classes[label]} by its colour"
    )
    if others:  # grey, or painted: remap would change their meaning as well
        advice = f"remap {remap} reads them, but not the other {len(others)} masks: save all in one way"
        return Finding("error", "palette order", text, [r.label or r.image for r in coloured], advice=advice)
    return Finding("error", "palette order", text, options={"remap": remap})


def _one_class(present: Sequence[int], spec: DatasetSpec) -> Finding | None:
    if spec.num_classes > 1 or not set(present) <= {0, 1, 255}:
        return None
    name = spec.classes[0]
    text = (
        f"masks hold {', '.join(map(str, present))}, and '{name}' is the only class: there is nothing to learn"
    )
    remap = " and remap {255: 1}" if 255 in present and 1 not in present else ""
    return Finding("error", "one class", text, advice=f"name two classes (background, {name}){remap}")


def _mixed_binary(records: Sequence[Record], meant: Mapping[int, int], spec: DatasetSpec) -> Finding | None:
    """Finds files of 0 and 255 among files of 0 and 1."""
    white, one = ([r for r in records if i in r.ids] for i in (255, 1))
    if spec.num_classes != 2 or meant.get(255) != spec.ignore_index:
        return None
    if not white or not one or any(1 in r.ids for r in white):
        return None
    odd, means = white, "0 and 255, but others 0 and 1"
    if len(one) < len(white):
        odd, means = one, "0 and 1, but others 0 and 255"
    level: Level = "error" if len(odd) > 0.1 * len(records) else "warning"
    return _mixed(level, odd, records, means, f"{_CONVERT}, and if 255 is not a class, all is well")


def _mixed_cityscapes(records: Sequence[Record], spec: DatasetSpec) -> Finding | None:
    """Finds trainIds among the labelIds of Cityscapes."""
    is_other = [name.lower() for name in spec.classes] != list(CITYSCAPES_SPEC.classes)
    if is_other or not any(19 <= i <= 33 for record in records for i in record.ids):
        return None
    low = [r for r in records if len(r.ids) > 3 and max(r.ids.keys() - {255}) < 19]
    void = [r for r in low if 255 in r.ids]
    if void:
        return _mixed("error", void, records, "trainIds 0..18 and 255, but others labelIds 0..33", _CONVERT)
    # Hardly a street has no tree, sky, person or car, of ids above 18; labels turned back have no 1 to 6.
    low = [r for r in low if r.ids.keys() & set(range(1, 7))]
    advice = f"if they are trainIds, {_CONVERT}"
    return _mixed("warning", low, records, "no id above 18, as trainIds do, but others labelIds 0..33", advice)


def _mixed_shift(records: Sequence[Record], present: Sequence[int], spec: DatasetSpec) -> Finding | None:
    """Finds masks that were shifted to training ids among others that were not."""
    n, void = spec.num_classes, spec.ignore_index
    if dict(spec.remap) != _shift(spec) or not {0, n, void} <= set(present):
        return None
    odd = [r for r in records if void in r.ids]
    if any(n in r.ids for r in odd):  # 255 is one of the ids that stand beside 1..N
        return None
    official = spec.classes == ADE20K_SPEC.classes  # whose files have no 255
    advice = f"if they hold 0..{n - 1} already, {_CONVERT}" + (
        "" if official else f"; if {void} is not a class, all is well"
    )
    level: Level = "error" if official else "warning"
    return _mixed(
        level, odd, records, f"{void}, as shifted masks do, but others {n}, as the files should", advice
    )


def _mixed(
    level: Level, odd: Sequence[Record], records: Sequence[Record], means: str, advice: str
) -> Finding | None:
    """Says that some files follow another convention than the rest; no option reads both."""
    if not odd:
        return None
    text = f"{count(len(odd), len(records), 'mask')} hold {means}"
    return Finding(level, "mixed ids", text, [r.label or r.image for r in odd], advice=advice)


def _shift(spec: DatasetSpec) -> dict[int, int]:
    """Writes the remap of masks whose classes count from 1."""
    return {0: spec.ignore_index} | {i: i - 1 for i in range(1, spec.num_classes + 1)}


def _converted(present: Sequence[int], unknown: Sequence[int], spec: DatasetSpec) -> Finding | None:
    """Recognises masks that were shifted to training ids, where remap would shift them once more."""
    n, void = spec.num_classes, spec.ignore_index
    if unknown or dict(spec.remap) != _shift(spec) or void not in present or n in present or 0 not in present:
        return None
    text = f"masks hold {void} and never {n}, though remap takes 0 for no class and lowers the others"
    advice = (
        f"if they hold 0..{n - 1} and {void} already, let remap be {{0: 0, 1: 1, …, {n - 1}: {n - 1}}}; if not,"
        f" see what {void} means"
    )
    return Finding("error", "ids converted already", text, advice=advice)


def _expanded_palette(present: Sequence[int], unknown: Sequence[int], spec: DatasetSpec) -> Finding | None:
    """Recognises the luminances of the classes' colours, as Pillow's convert("L") computes them."""
    grey: dict[int, list[str]] = {}
    for name, (red, green, blue) in zip(spec.classes, spec.palette, strict=True):
        grey.setdefault((19595 * red + 38470 * green + 7471 * blue + 32768) >> 16, []).append(name)
    chance = (len(grey) / 256) ** len(unknown)
    if len(unknown) < 2 or chance > 1e-3 or not set(present) <= grey.keys() | {0, spec.ignore_index}:
        return None
    i = unknown[0]
    text = f"masks hold the brightness of the classes' colours, such as {i} for '{grey[i][0]}', not ids"
    advice = "palette masks were converted to grey: take the original files, which hold the ids"
    return Finding("error", "expanded palette", text, advice=advice)


def _cityscapes(present: Sequence[int], meant: Mapping[int, int], spec: DatasetSpec) -> Finding | None:
    """Tells labelIds, 0 to 33, from trainIds, 0 to 18, where the classes are those of Cityscapes."""
    if [name.lower() for name in spec.classes] != list(CITYSCAPES_SPEC.classes):
        return None
    official = dict(CITYSCAPES_SPEC.remap)
    unknown = [i for i in present if i not in meant]
    if all(meant.get(i) == i for i in present if i < 19) and not unknown:
        return None
    if unknown and set(present) <= official.keys() | {spec.ignore_index}:
        remap = {i: label if label < 19 else spec.ignore_index for i, label in official.items()}
        text = f"masks hold ids up to {max(unknown)}: these are labelIds, where trainIds 0..18 are expected"
        if 255 in present:  # no labelId: some files may hold trainIds
            advice = f"files with 255 may hold trainIds: convert those; for labelIds, let remap be {remap}"
            return Finding("error", "labelIds for trainIds", text, advice=advice)
        return Finding("error", "labelIds for trainIds", text, options={"remap": remap})
    if spec.remap and not unknown and set(present) <= {*range(19), 255}:
        remap = {i: i for i in range(19)}
        if 255 in present:
            text = "masks hold ids 0..18 and 255: these are trainIds, where labelIds 0..33 are expected"
            return Finding("error", "trainIds for labelIds", text, options={"remap": remap})
        if len(present) > 4:
            text = "masks hold no id above 18, as trainIds do, where labelIds 0..33 are expected"
            advice = f"if they are trainIds, let remap be {remap}"
            return Finding("error", "trainIds for labelIds", text, advice=advice)
    return None


def _binary(present: Sequence[int], meant: Mapping[int, int], spec: DatasetSpec) -> Finding | None:
    if spec.num_classes != 2 or len(present) != 2 or present[0] != 0 or meant.get(0) != 0:
        return None
    white = present[1]
    if white == 1 or meant.get(white) == 1:
        return None
    means = "no class" if meant.get(white) == spec.ignore_index else "nothing"
    text = f"masks hold 0 and {white}, and {white} means {means}: '{spec.classes[1]}' has no pixel"
    return Finding("error", f"0/{white} masks", text, options={"remap": {white: 1}})


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
    remap = _shift(spec)
    if not set(range(1, n + 1)) <= set(present):
        advice = f"if so, let remap be {remap}; if {n} is not a class, let it be {{{n}: {spec.ignore_index}}}"
        return Finding("error", "ids 1..N", text, advice=advice)
    return Finding("error", "ids 1..N", text, options={"remap": remap})


def _spread(present: Sequence[int], unknown: Sequence[int], spec: DatasetSpec) -> Finding | None:
    """Recognises ids that were spread over the grey values, so that viewers show them."""
    n = spec.num_classes
    if not unknown or len(present) != n or n < 3 or present[0] != 0:
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
    text = f"masks hold ids 0..{n} for {n} classes: one of them is not a class, or has no name"
    advice = (
        f"if {n} means no class, let remap be {{{n}: {spec.ignore_index}}}; if it is 0 that means none,"
        f" {_shift(spec)}; if all are classes, add the name to classes"
    )
    return Finding("error", "ids 0..N", text, advice=advice)


def _out_of_range(
    present: Sequence[int], unknown: Sequence[int], spec: DatasetSpec, count_up: bool
) -> Finding | None:
    if not unknown:
        return None
    n = spec.num_classes
    shown = ", ".join(map(str, unknown[:8])) + (", …" if len(unknown) > 8 else "")
    if unknown[0] < 0 and len(unknown) <= _GREY_VALUES:
        text = f"masks hold {shown}, and negative numbers are not class ids"
        remap = dict.fromkeys((i for i in unknown if i < 0), spec.ignore_index)
        advice = f"if these mean no class, let remap be {remap}"
        return Finding("error", "ids out of range", text, advice=advice)
    if len(unknown) > _GREY_VALUES:
        text = f"masks hold {len(present)} different numbers ({shown}): grey values, not the ids of {n} classes"
        advice = "save one class id per pixel; masks resized with interpolation look like this as well"
        return Finding("error", "grey values", text, advice=advice)
    text = f"masks hold {shown}, but the {n} classes have ids {spec.described_ids}"
    advice = (
        "send ids that are classes to their training ids by remap, and those that are none to"
        f" {spec.ignore_index}; or correct the files"
    )
    beside = _beside_strays(present, spec) if count_up else ""
    return Finding("error", "ids out of range", text, advice=beside + advice)


def _beside_strays(present: Sequence[int], spec: DatasetSpec) -> str:
    """Says which convention the masks follow if stray ids are set aside."""
    n, found = spec.num_classes, set(present)
    spread = [round(i * 255 / (n - 1)) for i in range(n)] if n > 1 else []
    conventions = (
        (f"ids 1..{n}", _shift(spec), 0),
        (
            "ids spread over the grey values" if n > 2 else "0 and 255",
            dict(zip(spread, range(n), strict=False)),
            1,
        ),
    )
    for name, remap, forbidden in conventions:
        ids = {i for i in remap if i != forbidden and (i or forbidden)}
        strays = sorted(found - remap.keys() - {spec.ignore_index})
        if ids and ids <= found and forbidden not in found and strays:
            return f"without {', '.join(map(str, strays[:8]))} these are {name}, read by remap {remap}; "
    return ""


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

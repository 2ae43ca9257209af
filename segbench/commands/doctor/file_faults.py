"""Faults of single files: missing, damaged, of the wrong kind, size or orientation."""

from collections.abc import Callable, Sequence

from segbench.commands.doctor.examine import Fault, Record
from segbench.commands.doctor.finding import Finding, Level, count, leave_out
from segbench.data.spec import Color, DatasetSpec

_SHOWN = 32  # colours that are listed; of more, few are a class each

# Level, statement and advice for each fault that keeps a pair from being read.
_UNREADABLE: dict[Fault, tuple[str, str]] = {
    "missing mask": ("{} have no mask", "or add the masks"),
    "damaged image": ("{} are damaged, cut short or not images", "or copy the files again"),
    "damaged mask": ("the masks of {} are damaged or cut short", "or copy the files again"),
    "JPEG mask": (
        "the masks of {} are JPEG, which changes class ids",
        "or make PNG masks from the original annotation; renaming or converting the JPEGs does not undo it",
    ),
    "transparent mask": (
        "the masks of {} have transparent pixels, which leaves their class open",
        "or fill them with the colour of their class, or one that ignore names, and save without transparency",
    ),
    "unreadable": ("{} cannot be read", ""),
}


def file_findings(records: Sequence[Record], spec: DatasetSpec) -> list[Finding]:
    """Finds what is wrong with files one by one.

    Args:
        records: All pairs of all splits.
        spec: Classes and their colours.

    Returns:
        A finding for each kind of fault.
    """
    findings = []
    for fault, (text, advice) in _UNREADABLE.items():
        bad = [record for record in records if record.fault == fault]
        files = [record.label or record.image if "mask" in fault else record.image for record in bad]
        if bad:
            reason = f": {bad[0].reason}" if fault == "unreadable" else ""
            text = text.format(count(len(bad), len(records), "image")) + reason
            findings.append(Finding("error", fault, text, files, leave_out(bad, records), advice))
    findings.extend(_color_masks(records, spec))
    findings.extend(_sizes(records))
    for name, test, text, advice in _PHOTOGRAPHS:
        bad = [record for record in records if test(record)]
        if bad:
            level: Level = "note" if name in {"alpha channel", "16-bit images"} else "warning"
            text = f"{count(len(bad), len(records), 'image')} {text}"
            findings.append(Finding(level, name, text, [record.image for record in bad], {}, advice))
    return findings


def _color_masks(records: Sequence[Record], spec: DatasetSpec) -> list[Finding]:
    bad = [record for record in records if record.fault == "colour mask"]
    if not bad:
        return []
    colors = sorted({color for record in bad for color in record.colors})
    shown = ", ".join(map(_rgb, colors[:_SHOWN])) + (", …" if len(colors) > _SHOWN else "")
    known = set(colors) & set(spec.palette)
    # Colours may be classes: images are left out only where a few masks are nothing but odd.
    few = not known and 2 * len(bad) < len(records) and not all(len(set(color)) == 1 for color in colors)
    options = leave_out(bad, records) if few or not colors else {}
    text = f"{count(len(bad), len(records), 'mask')} hold {len(colors)} colours ({shown}) instead of class ids"
    files = [record.label or record.image for record in bad]
    advice = _meaning(colors, records, spec)
    return [Finding("error", "RGB masks", text, files, options, advice)]


def _meaning(colors: Sequence[Color], records: Sequence[Record], spec: DatasetSpec) -> str:
    """Says in words what the colours of painted masks could mean."""
    if colors and all(len(set(color)) == 1 for color in colors):
        return (
            "their channels repeat one number per pixel: save one of them alone, as Pillow's getchannel(0) does"
        )
    unknown = [color for color in colors if color not in spec.palette]
    if 0 < len(unknown) < len(colors) <= 2 * spec.num_classes:
        read = {i for record in records for i in record.ids}
        absent = [
            f"'{name}' ({_rgb(color)})"
            for i, (name, color) in enumerate(zip(spec.classes, spec.palette, strict=True))
            if color not in colors and i not in read
        ]
        if absent:
            return (
                f"{', '.join(absent[:4])} never occurs, but {', '.join(map(_rgb, unknown[:4]))} does:"
                " if that is its colour, correct it in classes; if it means no class, name it in ignore"
            )
        named = str([_rgb(color) for color in unknown[:8]])
        return (
            f"if {', '.join(map(_rgb, unknown[:8]))} means no class, let ignore be {named}; or name its class"
        )
    if len(colors) <= _SHOWN:
        lines = [f"{_rgb(color)} class_{i}" for i, color in enumerate(colors)]
        return f"say which class each colour is, by lines 'R G B name' in classes: {lines}, with your own names"
    return "or save them as grey or palette PNGs with one class id per pixel"


def _rgb(color: Color) -> str:
    return " ".join(map(str, color))


def _sizes(records: Sequence[Record]) -> list[Finding]:
    """Finds masks of another size than their image, those apart that EXIF has turned."""
    bad = [record for record in records if record.size and record.label_size not in {None, record.size}]
    turned = [r for r in bad if r.orientation >= 5 and r.size and r.label_size == r.size[::-1]]
    other = [record for record in bad if record not in turned]
    findings = []
    if turned:
        text = (
            f"{count(len(turned), len(records), 'image')} are shown upright by their EXIF tag, but their masks"
            " lie as the sensor does"
        )
        advice = "or turn the masks as the photographs are shown"
        files = [record.image for record in turned]
        findings.append(Finding("error", "EXIF rotation", text, files, leave_out(turned, records), advice))
    if other:
        first = other[0]
        text = (
            f"{count(len(other), len(records), 'mask')} differ in size from their image, such as"
            f" {_pixels(first.label_size)} for {_pixels(first.size)}"
        )
        advice = "or save the masks at the size of the images, without interpolation"
        files = [record.label or record.image for record in other]
        findings.append(Finding("error", "sizes differ", text, files, leave_out(other, records), advice))
    return findings


def _pixels(size: tuple[int, int] | None) -> str:
    return f"{size[0]}x{size[1]}" if size else "?"


def _is_turned_unseen(record: Record) -> bool:
    """Tells images that EXIF turns without the size to show whether their masks were turned as well."""
    unseen = record.orientation in {2, 3, 4} or (record.size is not None and record.size[0] == record.size[1])
    return record.orientation > 1 and unseen and record.label_size == record.size


_PHOTOGRAPHS: tuple[tuple[str, Callable[[Record], bool], str, str], ...] = (
    (
        "EXIF orientation",
        _is_turned_unseen,
        "are turned upright by their EXIF tag",
        "look at one with its mask: the mask must fit the photograph as viewers show it",
    ),
    (
        "mask orientation",
        lambda record: record.label_orientation > 1,
        "have masks with an EXIF orientation tag, which training does not follow in masks",
        "look at one with its photograph as stored; save the masks as they should lie, without the tag",
    ),
    (
        "16-bit images",
        lambda record: record.deep and not record.dark,
        "have 16 bits for each colour, of which the upper 8 are used",
        "what differs only in the lower 8 bits looks the same",
    ),
    (
        "dark images",
        lambda record: record.dark,
        "have 16 bits for each colour, of which no more than the lower 14 are used: they are seen nearly black",
        "multiply the values by 16 where the sensor has 12 bits (64: 10 bits, 4: 14 bits) and save them again",
    ),
    (
        "alpha channel",
        lambda record: record.alpha,
        "have an alpha channel, which is dropped",
        "what was transparent shows the colours below",
    ),
)

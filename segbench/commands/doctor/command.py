"""`segbench doctor`: reads a dataset once and names what is wrong with it, with the YAML that fixes it."""

import argparse
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segbench.utils.printable import escape_controls

if TYPE_CHECKING:
    from rich.console import Console

    from segbench.commands.doctor.diagnose import Diagnosis
    from segbench.commands.doctor.examine import Record
    from segbench.commands.doctor.finding import Finding
    from segbench.data.base import SegmentationDataModule

_COLORS = {"error": "bold red", "warning": "bold yellow", "note": "bold cyan"}
_EXAMPLES = 3
_BAR = 24  # characters of the longest bar
_SIZES = 10  # rows of the size table


def run(args: list[str]) -> None:
    """Reads the options and configurations as `segbench fit` does, of which only the data count.

    Args:
        args: As on the command line, without the verb.

    Raises:
        SystemExit: With status 1 if training on these data would be wrong.
        ValueError: If a configuration cannot be read, or names no data.
    """
    from segbench.data.base import SegmentationDataModule
    from segbench.parsing.parser import ExplainedParser

    parser = ExplainedParser(prog="segbench doctor", description=__doc__)
    parser.add_argument("-c", "--config", action="config", help="YAML as for fit; several, the last one wins.")
    parser.add_subclass_arguments(SegmentationDataModule, "data", required=True, help="The dataset.")
    parser.add_function_arguments(doctor, skip={"data", "given", "typed"})
    alone = _data_alone(args, parser.files)
    config = parser.parse_args(alone)
    given = config.data.as_dict().get("init_args", {})
    built = parser.instantiate(config)
    typed = {found[1] for word in args if (found := re.match(r"--data(?:\.init_args)?\.(\w+)", word))}
    doctor(built.data, given, built.out, built.fix, built.num_workers, built.cache, typed)


def doctor(
    data: "SegmentationDataModule",
    given: Mapping[str, Any],
    out: Path | None = None,
    fix: Path | None = None,
    num_workers: int | None = None,
    cache: bool = True,
    typed: Collection[str] = (),
) -> None:
    """Reads every image and mask once and prints what is wrong, and what the data are like.

    Args:
        data: The dataset.
        given: Its options as they are; remedies add to them.
        out: Folder for classes.png and sizes.png.
        fix: YAML file for the remedies of all errors and warnings in one, to be given as a further --config.
        num_workers: Files read at the same time; by default as many as there are free processors.
        cache: Read only files that have changed since an earlier visit; false reads all. What was found is kept
            in the folder doctor of the cache folder.
        typed: Options of the dataset that stand on the command line itself.

    Raises:
        SystemExit: With status 1 if training on these data would be wrong.
        FileExistsError: If a file to be written is there already.
    """
    from rich.console import Console
    from rich.progress import track

    from segbench.commands.doctor.diagnose import options_of, visit
    from segbench.commands.doctor.finding import LEVELS, as_yaml, remedy
    from segbench.utils.files import atomic_write

    pictures = [] if out is None else [out / "classes.png", out / "sizes.png"]
    for path in (*pictures, *([] if fix is None else [fix])):
        if path.exists():
            raise FileExistsError(f"{path} exists and stays as it is: give another name, or take it away")
    console, progress = Console(soft_wrap=True, highlight=False), Console(stderr=True)
    diagnosis = visit(
        data,
        num_workers,
        lambda records, total: track(
            records, f"Reading {total} images", total, console=progress, disable=not total
        ),
        cache,
    )
    accepted = options_of(data)
    for finding in diagnosis.findings:
        _print_finding(console, finding, given, accepted)
    _print_classes(console, data, diagnosis)
    _print_sizes(console, diagnosis.records)
    if out is not None:
        _draw(out, data, diagnosis)
        console.print(f"{out / 'classes.png'} and {out / 'sizes.png'} show the same", markup=False)
    overlay = remedy((f for f in diagnosis.findings if f.level != "note"), given, accepted) or {}
    if fix is not None and overlay:
        fix.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(fix) as draft:
            draft.write_text(as_yaml(overlay), encoding="utf-8")
        console.print(f"{fix} fixes this: give it as a further --config, to doctor first", markup=False)
        beaten = [name for name in overlay["data"]["init_args"] if name in typed]
        if beaten:
            options = ", ".join(f"--data.init_args.{name}" for name in beaten)
            console.print(f"and leave {options} out of the command line, which would win over it", markup=False)
    levels = Counter(finding.level for finding in diagnosis.findings)
    counted = ", ".join(f"{levels[level]} {level}{'s' if levels[level] != 1 else ''}" for level in LEVELS)
    before = f", {diagnosis.recalled} of them on an earlier visit" if diagnosis.recalled else ""
    console.print(f"{len(diagnosis.records)} images read{before}: {counted}", markup=False)
    if levels["error"]:
        raise SystemExit(1)


def _data_alone(args: list[str], texts: dict[str, str]) -> list[str]:
    """Reduces configurations to their data; what is said there of model and trainer is not for the doctor.

    Args:
        args: The command line.
        texts: Receives the files as they are, for messages.
    """
    import yaml

    from segbench.utils.yaml_files import read_text, read_yaml

    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("-c", "--config", action="append", default=[])
    found, rest = finder.parse_known_args(args)
    configs = []
    for path in found.config:
        config = read_yaml(Path(path))
        texts[path] = read_text(Path(path))
        if not isinstance(config, dict):
            raise ValueError(f"{path} is not a configuration: give a YAML as for `segbench fit`")
        if "data" in config:
            configs += ["--config", yaml.safe_dump({"data": config["data"]})]
    if not args or (found.config and not configs):
        raise ValueError("no dataset is named: give it by --config experiments/data/NAME.yaml")
    return [*configs, *rest]


def _print_finding(
    console: "Console", finding: "Finding", given: Mapping[str, Any], accepted: frozenset[str]
) -> None:
    from rich.text import Text

    from segbench.commands.doctor.finding import as_yaml, remedy

    head = Text.assemble(
        (finding.level, _COLORS[finding.level]),
        "  ",
        (finding.name, "bold"),
        f": {escape_controls(finding.text)}",
    )
    console.print(head)
    for file in finding.files[:_EXAMPLES]:
        console.print(f"    {escape_controls(str(file))}", markup=False)
    if len(finding.files) > _EXAMPLES:
        console.print(f"    … and {len(finding.files) - _EXAMPLES} more", markup=False)
    overlay = remedy([finding], given, accepted)
    if overlay:
        console.print("  fixed by", markup=False)
        console.print(
            "".join(f"    {escape_controls(line)}\n" for line in as_yaml(overlay).splitlines()),
            markup=False,
            end="",
        )
    if finding.advice:
        advice = finding.advice if overlay else finding.advice.removeprefix("or ")
        console.print(f"  {escape_controls(advice)}", markup=False)
    console.print()


def _shares(data: "SegmentationDataModule", diagnosis: "Diagnosis") -> dict[str, list[float]]:
    """Computes the share of each class in the labelled pixels of each split."""
    from segbench.commands.doctor.split_faults import class_pixels

    counts = class_pixels(diagnosis.records, data.spec) or {}
    return {split: (pixels / max(1, int(pixels.sum()))).tolist() for split, pixels in counts.items()}


def _print_classes(console: "Console", data: "SegmentationDataModule", diagnosis: "Diagnosis") -> None:
    from rich.table import Table
    from rich.text import Text

    shares = _shares(data, diagnosis)
    if not shares:
        return
    table = Table("id", "class", *shares, "", title="share of labelled pixels", title_justify="left", box=None)
    first = next(iter(shares.values()))
    for label, name in enumerate(data.class_names):
        red, green, blue = data.palette[label]
        bar = Text("█" * round(_BAR * first[label] / max(max(first), 1e-9)), f"rgb({red},{green},{blue})")
        figures = [f"{row[label]:.2%}" if row[label] else "-" for row in shares.values()]
        table.add_row(str(label), Text(escape_controls(name)), *figures, bar)
    console.print(table)
    console.print()


def _size_rows(records: Sequence["Record"]) -> list[tuple[str, int]]:
    """Counts images by size: each size if there are few of them, otherwise by ranges of the shorter side."""
    sizes = Counter(record.size for record in records if record.size)
    if len(sizes) <= _SIZES:
        return [(f"{width}x{height}", number) for (width, height), number in sorted(sizes.items())]
    shorter = Counter[int]()
    for size, number in sizes.items():
        shorter[min(size)] += number
    low, high = min(shorter), max(shorter)
    step = max(1, -(-(high - low + 1) // _SIZES))
    rows = []
    for start in range(low, high + 1, step):
        stop = min(start + step - 1, high)
        number = sum(shorter[side] for side in range(start, stop + 1))
        rows.append((f"shorter side {start} to {stop}", number))
    return rows


def _print_sizes(console: "Console", records: Sequence["Record"]) -> None:
    from rich.table import Table

    rows = _size_rows(records)
    if not rows:
        return
    table = Table("size", "images", "", title="image sizes", title_justify="left", box=None)
    most = max(number for _, number in rows)
    for name, number in rows:
        table.add_row(name, str(number), "█" * round(_BAR * number / most))
    console.print(table)
    console.print()


def _draw(out: Path, data: "SegmentationDataModule", diagnosis: "Diagnosis") -> None:
    from segbench.visualization.charts import bar_chart
    from segbench.visualization.pictures import write_png

    out.mkdir(parents=True, exist_ok=True)
    shares = _shares(data, diagnosis)
    values = [list(row) for row in zip(*shares.values(), strict=True)] or [[] for _ in data.class_names]
    labels = [[f"{value:.2%}" for value in row] for row in values]
    title = f"share of labelled pixels: {', '.join(shares) or 'unknown until the ids are right'}"
    write_png(str(out / "classes.png"), bar_chart(title, data.class_names, values, data.palette, labels))
    rows = _size_rows(diagnosis.records)
    names, numbers = [name for name, _ in rows], [[float(number)] for _, number in rows]
    labels = [[str(number)] for _, number in rows]
    grey = [(110, 140, 190)] * len(rows)
    write_png(str(out / "sizes.png"), bar_chart("image sizes", names, numbers, grey, labels))

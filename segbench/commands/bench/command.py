"""`segbench bench`: measures time and memory on this machine."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from segbench.commands.bench.report import Report
    from segbench.commands.bench.section import Section

# What makes glibc keep large blocks in place of handing them back to the system after each use.
RETAINED = {"MALLOC_MMAP_THRESHOLD_": str(8 << 30), "MALLOC_TRIM_THRESHOLD_": str(16 << 30)}


@dataclass
class Options:
    """How everything is measured.

    Large blocks go back to the system after each use and come again page by page, which slows down whatever
    allocates them, yardsticks most of all; `--malloc retained` is the fairest comparison on a CPU.

    Attributes:
        only: Regular expression of whole words; cases are measured whose section or name it is found in.
        repeats: Rounds of timing, at least 1; rows show the median.
        warm_up: Rounds before those, which do not count; one is run in any case.
        device: Where; auto takes a GPU if there is one.
        malloc: What glibc does with large blocks on the CPU; retained restarts the command with
            MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_ set.
        oversubscribed: Processes that spin beside, to see how figures hold on busy cores.
        out: Markdown file; must not exist yet.
        json: JSON file with every single measurement; must not exist yet.
    """

    only: str | None = None
    repeats: int = 5
    warm_up: int = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    malloc: Literal["default", "retained"] = "default"
    oversubscribed: int = 0
    out: Path | None = None
    json: Path | None = None

    def check(self) -> None:
        """Refuses what cannot be measured or written.

        Raises:
            ValueError: If a number is out of range, or a file exists.
        """
        for name, least in (("repeats", 1), ("warm_up", 0), ("oversubscribed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; give at least {least}")
        for option, file in (("out", self.out), ("json", self.json)):
            if file is not None and file.exists():
                raise ValueError(f"{file} exists; name another file for --{option}, or remove it")


def kernels() -> "Bench":
    """Measures every kernel beside what it replaces."""
    from segbench.commands.bench.kernels import sections

    return Bench(sections())


def loading() -> "Bench":
    """Measures how fast training images are read and augmented, beside the pipelines of others."""
    from segbench.commands.bench.loading import section

    return Bench([section()])


def startup() -> "Bench":
    """Measures how long commands take to their first message, against importing torch and Lightning."""
    from segbench.commands.bench.startup import section

    return Bench([section()])


def models(
    experiments: Path = Path("experiments"),
    runs: list[Path] | None = None,
    plot: Path | None = None,
    batch_size: int = 2,
    img_size: list[int] | None = None,
    num_classes: int | None = None,
    precision: Literal["fp32", "bf16"] = "fp32",
    compile: bool = False,  # noqa: A002 (the name of the key in YAML)
) -> "Bench":
    """Measures what models cost, from random weights and on random images; no data are needed.

    Args:
        experiments: Folder whose YAMLs name the models.
        runs: Run folders in their place, whose scores are plotted against the costs.
        plot: PNG file for that plot; must not exist yet.
        batch_size: Images of a training step, the same for all models.
        img_size: Height and width in place of the experiments' own.
        num_classes: Classes in place of the experiments' own.
        precision: bf16 for autocast to it; the plain baseline is measured in fp32 too.
        compile: Measure each model compiled as well, as by `compile: true`; warming up takes a minute or two.

    Raises:
        ValueError: If a number is out of range, a folder has no models, or the plot exists or has no runs.
    """
    numbers = {
        "batch_size": batch_size,
        "num_classes": 1 if num_classes is None else num_classes,
        "img_size": min(img_size or (1, 1)),
    }
    if wrong := [f"{name} is {number}" for name, number in numbers.items() if number < 1]:
        raise ValueError(f"{wrong[0]}; give at least 1")
    if (plot is None) != (not runs):
        raise ValueError("a plot needs scores and scores a plot: give --runs RUN… and --plot FILE together")
    if plot is not None and plot.exists():
        raise ValueError(f"{plot} exists; name another file for --plot, or remove it")
    from segbench.commands.bench.experiments import Changes, find_experiments
    from segbench.commands.bench.models import Setup, sections
    from segbench.commands.bench.pareto import read_runs

    size = (img_size[0], img_size[1]) if img_size else None
    scored = read_runs(runs or [])
    files = {name: run.config for name, run in scored.items()} or find_experiments(experiments)
    chosen = sections(files, Setup(Changes(size, num_classes), batch_size, precision, compile))
    if plot is None:
        return Bench(chosen)

    def draw(report: "Report") -> None:
        from segbench.commands.bench.pareto import plot as draw_plot
        from segbench.visualization.pictures import write_png

        picture = draw_plot(scored, report.content["sections"])
        if picture is not None:
            plot.parent.mkdir(parents=True, exist_ok=True)
            write_png(str(plot), picture)

    return Bench(chosen, draw)


@dataclass
class Bench:
    """What is measured, and what is done with it at the end.

    Attributes:
        sections: Tables.
        finish: Called with all that was measured.
    """

    sections: list["Section"]
    finish: Callable[["Report"], None] | None = None


# Each is `segbench bench NAME`; its arguments are options, its docstring their help.
BENCHES: dict[str, Callable[..., Bench]] = {
    "kernels": kernels,
    "models": models,
    "loading": loading,
    "startup": startup,
}
# Options of several words, which signatures cannot say.
SEVERAL: dict[str, dict[str, Any]] = {
    "runs": {
        "nargs": "+",
        "type": Path,
        "help": "Run folders in place of experiments, for a plot of their scores.",
    },
    "img_size": {"nargs": 2, "type": int, "help": "Height and width in place of the experiments' own."},
}


def run(args: list[str]) -> None:
    """Reads the options and measures.

    Args:
        args: As on the command line, without the verb.

    Raises:
        ValueError: If an option is out of range, a file to be written exists, or nothing fits `--only`.
        SystemExit: With the status of the command, where it had to be restarted.
    """
    from segbench.parsing.parser import ExplainedParser

    parser = ExplainedParser(prog="segbench bench", description=__doc__)
    choices = parser.add_subcommands(dest="what")
    for name, bench in BENCHES.items():
        summary = (bench.__doc__ or "").splitlines()[0]
        choice = ExplainedParser(prog=f"segbench bench {name}", description=summary)
        several = SEVERAL.keys() & signature(bench).parameters
        choice.add_function_arguments(bench, skip=set(several))
        for option in sorted(several):
            choice.add_argument(f"--{option}", **SEVERAL[option])
        choice.add_class_arguments(Options)
        choices.add_subcommand(name, choice, help=summary)
    parsed = parser.parse_args(args)
    given: dict[str, Any] = dict(parser.instantiate(parsed)[parsed.what].as_dict())
    options = Options(**{field.name: given.pop(field.name) for field in fields(Options)})
    options.check()
    if options.malloc == "retained" and not RETAINED.items() <= os.environ.items():
        raise SystemExit(_restart(args))
    measure(BENCHES[parsed.what](**given), options)


def measure(bench: Bench, options: Options) -> None:
    """Prints a table for each section, row by row, and writes the files.

    Args:
        bench: What is measured.
        options: How.

    Raises:
        ValueError: If nothing fits `only`, or the device is not available.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # torch's profiler counts memory; it shall not talk of it
    import torch

    from segbench.commands.bench.environment import circumstances, oversubscribed
    from segbench.commands.bench.report import Report
    from segbench.commands.bench.section import Clock, choose

    there = torch.cuda.is_available()
    if options.device == "cuda" and not there:
        raise ValueError("device is cuda, but torch sees none; give --device cpu")
    device = torch.device("cuda" if there and options.device != "cpu" else "cpu")
    clock = Clock(device, options.repeats, options.warm_up)
    sections = choose(bench.sections, options.only)
    for file in (options.out, options.json):
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
    with oversubscribed(options.oversubscribed):
        report = Report(circumstances(clock, options.oversubscribed), options.out, options.json)
        report.run(sections, clock)
    if bench.finish is not None:
        bench.finish(report)


def _restart(args: list[str]) -> int:
    """Runs the same command of the same package in a process whose allocator keeps large blocks."""
    package = str(Path(__file__).parents[3])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | RETAINED | {"PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-m", "segbench", "bench", *args]
    try:
        status = subprocess.run(command, env=environment, check=False).returncode
    except KeyboardInterrupt:  # of which that process has spoken
        raise SystemExit(130) from None
    return status if status >= 0 else 128 - status  # ended by a signal

"""`segbench sweep`: a sweep file in W&B's format, run on one's own machines."""

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from segbench.utils.printable import escape_controls

if TYPE_CHECKING:
    from segbench.commands.sweep.file import Sweep
    from segbench.commands.sweep.space import Point
    from segbench.commands.sweep.study import Claim


class Checked(NamedTuple):
    """A trial that the parser accepts.

    Attributes:
        point: Its values.
        config: Its configuration, resolved.
    """

    point: "Point"
    config: dict[str, Any]


def sweep(
    files: list[Path],
    more: list[str],
    storage: str | None = None,
    workers: int | None = None,
    trials: int | None = None,
    study: str | None = None,
    runs_dir: Path = Path("runs"),
    logger: Literal["csv", "tensorboard", "wandb"] = "csv",
    dry_run: bool = True,
) -> None:
    """Runs all trials of sweep files that are not done yet, each in a run folder of its own.

    Args:
        files: Sweep files, one after the other.
        more: Arguments for every trial; what the sweep varies wins over them.
        storage: Optuna's storage, such as postgresql+psycopg2://USER@HOST/DATABASE, which several machines can
            share; default: the file RUNS_DIR/STUDY/study.db.
        workers: Trials at a time; default: one for each free GPU, or one without.
        trials: How many trials in all, in place of the file's run_cap.
        study: Name of the sweep and of its folder under runs_dir; default: the file's.
        runs_dir: Where run folders are made.
        logger: What trials log to beside metrics.csv, whatever the file's command says.
        dry_run: Run one trial for a step on synthetic scenes before the first real one.

    Raises:
        ValueError: If a file, a value of it or an option is wrong, or all trials fail.
        SystemExit: With status 1 if some trials failed, the others being done; 130 after Ctrl-C.
    """
    from importlib.util import find_spec

    from segbench.commands.sweep.file import read_sweep

    if find_spec("optuna") is None:
        raise ValueError("sweeps need optuna; pip install 'segbench[sweep]'")
    if study is not None and len(files) > 1:
        raise ValueError("--study names one sweep, but several files are given; run them one by one")
    if workers is not None and workers < 1:
        raise ValueError(f"workers is {workers}; give at least 1")
    sweeps = []
    for file in files:
        read = read_sweep(file, trials, more)
        sweeps.append(read if study is None else read._replace(name=study))
        check_name(sweeps[-1].name)
        for parameter in read.parameters:
            if parameter.note:
                print(f"segbench: warning: {parameter.note}", file=sys.stderr)
    well = True
    for one in sweeps:
        well &= _run(one, storage, workers, runs_dir, logger, dry_run)
    if not well:
        raise SystemExit(1)


def check_name(name: str) -> None:
    """Refuses names that are not plain folder names.

    Raises:
        ValueError: If it is none.
    """
    import re

    if not re.fullmatch(r"[\w.+-]*\w[\w.+-]*", name) or name.startswith("."):
        raise ValueError(f"the sweep's name {name!r} becomes a folder: use letters, digits, _ and -")


def _run(
    sweep: "Sweep", storage: str | None, workers: int | None, runs: Path, logger: str, dry_run: bool
) -> bool:
    from rich.console import Console
    from rich.live import Live

    from segbench.commands.sweep.devices import deal, free_gpus
    from segbench.commands.sweep.job import Job, run_folder
    from segbench.commands.sweep.loop import summary, work
    from segbench.commands.sweep.storage import exists
    from segbench.commands.sweep.study import Study
    from segbench.commands.sweep.table import progress_table
    from segbench.runs.settings import format_value, last_key

    console = Console()
    folder = runs / sweep.name
    own = ["--experiment", sweep.name, "--runs_dir", str(runs), "--logger", logger]
    storage = storage or f"sqlite:///{(folder / 'study.db').absolute()}"
    shares = deal(free_gpus(), workers)
    if not exists(storage, sweep.name):  # else all this was done when it was made
        if strangers := sorted(folder.glob("trial-*/run.json")):
            raise ValueError(
                f"{strangers[0].parent} belongs to an earlier sweep that this storage does not know; "
                "give its --storage, or a name for a new one by --study NAME"
            )
        console.print(f"{escape_controls(sweep.name)}: checking every value against the parser", markup=False)
        first = check(sweep)
        if dry_run and sweep.command.verb == "fit":
            with console.status("dry run of the first trial on drawn scenes"):
                _dry_run(sweep, first, own, shares[0])
            console.print("dry run of the first trial on drawn scenes: it trains, validates and saves")
        folder.mkdir(parents=True, exist_ok=True)
    study = Study(sweep, storage)

    def start(claim: "Claim", worker: int) -> Job:
        place = run_folder(runs, sweep.name, claim)
        if sweep.command.verb != "fit":  # scoring is not resumed but repeated
            (place / "run.json").unlink(missing_ok=True)
        # The name is the slot's, so that a sweep that is continued resumes from the trial's checkpoint.
        args = [*sweep.command.fill(claim.point, place / "trial.json"), *own, "--run_id", place.name]
        return Job(args, place, place / "trial.log", shares[worker])

    live = Live(console=console, refresh_per_second=1, transient=True) if console.is_terminal else None

    def watch() -> None:
        if live is not None:
            live.update(progress_table(sweep, study.standings()))

    def say(claim: "Claim", state: str, note: str) -> None:
        varied = {p.name for p in sweep.parameters if len(p.choices) != 1}
        told = ", ".join(f"{last_key(n)}={format_value(v)}" for n, v in claim.point.items() if n in varied)
        console.print(
            f"trial {claim.slot + 1} {state}: {told}" + (f": {note}" if note else ""),
            markup=False,
            highlight=False,
            soft_wrap=True,
        )

    try:
        with live or contextlib.nullcontext():
            well = work(study, start, len(shares), watch, say)
    except KeyboardInterrupt:
        console.print("interrupted; the same command resumes")
        raise SystemExit(130) from None
    console.print(progress_table(sweep, study.standings()))
    told = [*summary(study), f"runs in {folder}; segbench report {folder} --out DIR makes tables"]
    console.print(*told, sep="\n", markup=False, highlight=False, soft_wrap=True)
    return well


def check(sweep: "Sweep") -> Checked:
    """Has the parser of `segbench fit` read every value once.

    Args:
        sweep: What is searched.

    Returns:
        The first trial.

    Raises:
        ValueError: If a key or a value is refused; with the parameters' values that were.
    """
    from segbench.commands.sweep.space import covering
    from segbench.utils.files import scratch

    points = covering(sweep.parameters)
    with scratch() as own:
        file = own / "trial.json"
        configs = [_resolve(sweep.command.fill(point, file), point) for point in points]
    return Checked(points[0], configs[0])


def _resolve(args: Sequence[str], point: dict[str, Any]) -> dict[str, Any]:
    from segbench.runs.settings import format_value
    from segbench.training.arguments import resolve_config
    from segbench.utils.errors import readable

    try:
        return resolve_config(args)
    except (ValueError, OSError) as error:
        raise ValueError(f"trial {format_value(point)}: {readable(error)}") from error


def _dry_run(sweep: "Sweep", first: Checked, own: list[str], share: dict[str, str]) -> None:
    import time

    import yaml

    from segbench.commands.sweep.dry_run import SCENE, has_twin, images, overlay
    from segbench.commands.sweep.job import Job, columns
    from segbench.data.synthetic import find_dataset, write_twin
    from segbench.utils.files import scratch

    with scratch() as place:
        root, run = place / "twin", place / sweep.name / "dry-run"
        if has_twin(first.config):
            write_twin(find_dataset(first.config["data"]["class_path"]), root, images(first.config), SCENE)
        laid_over = place / "dry_run.yaml"
        laid_over.write_text(yaml.safe_dump(overlay(first.config, root)), encoding="utf-8")
        args = sweep.command.fill(first.point, place / "trial.json")
        args = [*args, "--config", str(laid_over), *own, "--logger", "csv"]
        job = Job([*args, "--runs_dir", str(place), "--run_id", run.name], run, place / "log", share)
        try:
            while (status := job.poll()) is None:
                time.sleep(0.2)
            if status:
                raise ValueError(f"the first trial fails on drawn scenes already: {job.error()}")
            if not job.reports("val/miou"):
                raise ValueError("the first trial scores nothing on drawn scenes; is validation switched off?")
            if not job.reports(sweep.metric):
                logged = ", ".join(name for name in columns(run / "metrics.csv") if "/iou/" not in name)
                raise ValueError(f"the first trial logs no '{sweep.metric}', which metric names, but {logged}")
        finally:
            job.kill()


def run(args: list[str]) -> None:
    """Reads the options and runs.

    Args:
        args: As on the command line, without the verb; behind `--` what every trial is given.

    Raises:
        ValueError: As `sweep`.
    """
    from segbench.parsing.parser import ExplainedParser

    end = args.index("--") if "--" in args else len(args)
    parser = ExplainedParser(
        prog="segbench sweep",
        description=__doc__,
        epilog="Behind `--`: arguments for every trial, as in -- --data.init_args.root DIR",
    )
    parser.add_argument("files", nargs="+", type=Path, help="Sweep files in W&B's format.")
    parser.add_function_arguments(sweep, skip={"files", "more"})
    given = parser.parse_args(args[:end])
    os.environ.setdefault("PYTHONUNBUFFERED", "1")  # logs of trials show what happens while it happens
    sweep(**parser.instantiate(given).as_dict(), more=args[end + 1 :])

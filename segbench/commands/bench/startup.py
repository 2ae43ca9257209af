"""Time from starting a command to its first message, against importing torch and Lightning alone."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from segbench.commands.bench.section import CASE, COSTS, VARIANT, Clock, Column, Row, Section
from segbench.commands.bench.timing import time_side_by_side

# By name: the arguments of the command, which ends with a message or prints its help.
COMMANDS: Mapping[str, Sequence[str]] = {
    "segbench --help": ("--help",),
    "fit --help": ("fit", "--help"),
    "fit, missing file": ("fit", "--config", "missing.yaml"),
    "fit, misspelt option": ("fit", "--config", "linear.yaml", "--model.init_args.decodr", "x"),
    "segment, missing checkpoint": ("segment", "--checkpoint", "missing.ckpt", "x.png", "--out", "out"),
}
BASELINE = "import torch, Lightning"
HEAVY = ("torch", "lightning", "torchmetrics", "torchvision", "timm", "albumentations", "scipy", "matplotlib")
_IMPORTED = Column("imported", lambda row: ", ".join(row.get("imported", ())) or None, is_text=True)
_CONFIG = """\
model:
  class_path: segbench.tasks.semantic.SemanticTask
data:
  class_path: segbench.data.synthetic.SyntheticDataModule
"""


def section(commands: Mapping[str, Sequence[str]] = COMMANDS) -> Section:
    """Describes the comparison.

    Args:
        commands: Arguments by the name of the case.

    Returns:
        Its section.
    """
    return Section(
        "startup",
        "Commands until their first message, against importing torch and Lightning",
        "Each run is a process of its own, with Python's start and end. Files are in the page cache.",
        (CASE, VARIANT, *COSTS[:4], _IMPORTED),
        {name: partial(measure, name, args) for name, args in commands.items()},
    )


def measure(name: str, args: Sequence[str], clock: Clock) -> list[Row]:
    """Times one command.

    Args:
        name: Of the case.
        args: Of the command.
        clock: How to measure; the device is irrelevant.

    Returns:
        A row for the baseline and one for the command, with the heavy packages that it imports.
    """
    package = str(Path(__file__).parents[3])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "linear.yaml").write_text(_CONFIG)
        run = partial(subprocess.run, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        command = [sys.executable, "-m", "segbench", *args]
        works = {
            BASELINE: partial(run, [sys.executable, "-c", "import torch, lightning.pytorch.cli"]),
            "segbench": partial(run, command),
        }
        timings = time_side_by_side(works, clock.repeats, torch.device("cpu"), clock.warm_up)
        listed = run([sys.executable, "-X", "importtime", *command[1:]]).stderr
    names = {line.rpartition("|")[2].strip() for line in listed.splitlines() if line.startswith("import time:")}
    return [
        {
            "case": name,
            "variant": variant,
            "median_s": timing.median_s,
            "seconds": list(timing.seconds),
            "ratio": timing.ratio,
            "ratios": list(timing.ratios),
            **({"imported": [one for one in HEAVY if one in names]} if variant != BASELINE else {}),
        }
        for variant, timing in timings.items()
    ]

"""Writes a graph, its shape as free as can be, and keeps it only if it computes what the model computes."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

from torch.export import ExportedProgram

from segbench.commands.export.graph import Form, Free, output_names, patch_multiple, trace
from segbench.commands.export.metadata import facts
from segbench.commands.export.onnx_file import OPSET, check_packages, run_onnx, write_onnx
from segbench.commands.export.parity import Agreement, Run, compare
from segbench.commands.export.pt2_file import run_pt2, write_pt2
from segbench.tasks.base import Task
from segbench.tasks.semantic import SemanticTask
from segbench.utils.files import atomic_write

GraphFormat = Literal["onnx", "pt2"]


class Written(NamedTuple):
    """What was written.

    Attributes:
        form: Of the graph.
        agreements: With the model.
        refusals: By what could not be left free, why.
        seconds: From the first trace to the last comparison.
    """

    form: Form
    agreements: list[Agreement]
    refusals: dict[Free, str]
    seconds: float


def write_graph(
    task: Task,
    out: Path,
    kind: GraphFormat,
    *,
    photograph: bool = False,
    image_size: tuple[int, int] | None = None,
    opset: int = OPSET,
    tolerance: float = 1e-4,
) -> Written:
    """Exports a task as one graph.

    Batch and image size are left free, unless the model knows one size only. Where tracing or comparing fails
    with a free size, the size is fixed and only the batch left free, and then nothing.

    Args:
        task: In evaluation mode, on the CPU.
        out: The new file; nothing is left of it after a failure.
        kind: Format.
        photograph: Whether the file takes uint8 images and gives labels.
        image_size: `(height, width)` to fix.
        opset: Version of ONNX's operators.
        tolerance: Largest difference from the model.

    Returns:
        What came of it.

    Raises:
        ValueError: If the task cannot be exported, packages are missing, or the file disagrees with the model.
    """
    if not isinstance(task, SemanticTask):
        raise ValueError(
            f"{type(task).__name__} is not a task of one image in and one map out: no graph is made"
        )
    if kind == "onnx":
        check_packages()
    started = time.perf_counter()
    fixed = task.encoder.fixed_size or image_size is not None
    size = _size(task, image_size)
    multiple = patch_multiple(task.encoder)
    ladder: list[Free] = ["batch", "nothing"] if fixed else ["size", "batch", "nothing"]
    refusals: dict[Free, str] = {}
    for free in ladder:
        form = Form(photograph, multiple, size, free)
        try:
            agreements = _attempt(task, out, kind, form, opset, tolerance)
        except OSError:
            raise
        except Exception as error:  # what tracers, exporters and runtimes raise has no common base
            if free == ladder[-1]:
                raise ValueError(f"{kind}: no file is written: {_brief(error)}") from error
            refusals[free] = _brief(error)
        else:
            return Written(form, agreements, refusals, time.perf_counter() - started)
    raise AssertionError  # the ladder has a last rung


def _attempt(
    task: SemanticTask, out: Path, kind: GraphFormat, form: Form, opset: int, tolerance: float
) -> list[Agreement]:
    program: ExportedProgram = trace(task, form)
    known = facts(task, form)
    run: Callable[[Path], Run]
    with atomic_write(out) as draft:
        if kind == "onnx":
            write_onnx(draft, program, {**known, "opset": opset}, form, output_names(task, form), opset)
            run = run_onnx
        else:
            write_pt2(draft, program, known)
            run = run_pt2
        return compare(task, form, run(draft), tolerance)


def _size(task: SemanticTask, wanted: tuple[int, int] | None) -> tuple[int, int]:
    """Chooses the size that samples have, and that is fixed where it must be."""
    trained = task.hparams["img_size"]
    size = (int(trained[0]), int(trained[1]))
    if wanted is None:
        return size
    if min(wanted) < 1:
        raise ValueError(f"image_size must be positive, got {list(wanted)}")
    if task.encoder.fixed_size and tuple(wanted) != size:
        raise ValueError(f"the encoder knows images of {list(size)} only; leave --image_size out")
    return wanted


def _brief(error: BaseException) -> str:
    """Reduces what a tracer raises to its first telling line."""
    cause = error.__cause__ if type(error).__name__.endswith("ExporterError") and error.__cause__ else error
    told = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return told[0][:300] if told else type(cause).__name__

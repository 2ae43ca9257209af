"""A trained task as one graph of tensors, traced by `torch.export`; ONNX and `.pt2` are both made of it."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from segbench.encoders.base import Encoder
from segbench.functional.tokens import crop
from segbench.kernels.upsample_argmax import label_dtype
from segbench.tasks.semantic import SemanticTask

Free = Literal["size", "batch", "nothing"]
# Cells along the sides of the image that is traced: not square, and so many that even the deepest map of a
# pyramid has several tiles of local attention, more across than down. Where there is but one of something, or
# where two sides are alike, torch.export takes it for always so.
TRACED_CELLS = (18, 38)
MOST_CELLS = 4096  # along one side; an end must be named


class Form(NamedTuple):
    """What goes into the graph and what comes out.

    Attributes:
        photograph: Whether it takes uint8 images and gives labels; otherwise it takes normalised images of
            whole patches and gives what the decoder predicts.
        multiple: `(rows, columns)` of pixels: normalised images are whole multiples of it.
        img_size: `(height, width)` where that is fixed.
        free: What may vary: batch and size, the batch alone, or nothing.
    """

    photograph: bool
    multiple: tuple[int, int]
    img_size: tuple[int, int]
    free: Free


class Graph(nn.Module):
    """Tensors in, tensors out, as exporters want it."""

    def __init__(self, task: SemanticTask, form: Form) -> None:
        """Wraps a task.

        Args:
            task: In evaluation mode; shared, not copied.
            form: What goes in and comes out.
        """
        super().__init__()
        self.task = task
        self.photograph = form.photograph

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Predicts.

        Args:
            image: `(B, 3, H, W)`; RGB in uint8 for an image, else as `Encoder.normalize` gives it.

        Returns:
            Labels `(B, H, W)` for an image, else those outputs of the decoder that it has.
        """
        if self.photograph:
            prediction, size = self.task(image)
            logits = F.interpolate(prediction.logits.float(), size, mode="bilinear", align_corners=False)
            logits = crop(logits, (image.shape[2], image.shape[3]))  # (B, K, H, W)
            return (logits.argmax(1).to(label_dtype(logits.shape[1])),)
        with _normalized_already(self.task.encoder):
            prediction, _ = self.task(image)
        return tuple(value for value in prediction if value is not None)


def output_names(task: SemanticTask, form: Form) -> list[str]:
    """Names what the graph gives, in order.

    Args:
        task: The model.
        form: Of the graph.

    Returns:
        `labels`, or `logits` and what else the decoder predicts.
    """
    if form.photograph:
        return ["labels"]
    with torch.no_grad():
        prediction, _ = task(torch.zeros(1, 3, *form.img_size))
    return [name for name, value in prediction._asdict().items() if value is not None]


def patch_multiple(encoder: Encoder) -> tuple[int, int]:
    """Finds the smallest image that the encoder pads nothing to.

    Args:
        encoder: Any.

    Returns:
        `(rows, columns)` of pixels.
    """
    padded = encoder.normalize(torch.zeros(1, 3, 1, 1))
    return padded.shape[-2], padded.shape[-1]


def trace(task: SemanticTask, form: Form) -> ExportedProgram:
    """Traces the task.

    Args:
        task: In evaluation mode, on the CPU.
        form: What goes in, comes out, and may vary.

    Returns:
        The graph; its input is called `image`.

    Raises:
        Exception: Whatever the tracer raises where the model branches on what is free.
    """
    rows, columns = form.multiple
    if form.free == "size":
        height, width = TRACED_CELLS[0] * rows, TRACED_CELLS[1] * columns
        if form.photograph:
            height, width = (
                height - rows // 2,
                width - columns // 2,
            )  # neither do images fill their patches
    else:
        height, width = form.img_size if form.photograph else _padded(form)
    batch = 1 if form.free == "nothing" else 2
    shape = (batch, 3, height, width)
    image = torch.zeros(shape, dtype=torch.uint8) if form.photograph else torch.zeros(shape)
    free: dict[int, object] = {} if form.free == "nothing" else {0: Dim.DYNAMIC}
    if form.free == "size" and form.photograph:
        free |= {2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    elif form.free == "size":
        tall, wide = Dim("rows", min=2, max=MOST_CELLS), Dim("columns", min=2, max=MOST_CELLS)
        free |= {2: rows * tall if rows > 1 else tall, 3: columns * wide if columns > 1 else wide}
    with quiet(), torch.no_grad():
        return torch.export.export(Graph(task, form).eval(), (image,), dynamic_shapes=(free or None,))


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps exporters from printing, logging and warning; what matters they raise."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _padded(form: Form) -> tuple[int, int]:
    height, width = (
        -(-side // multiple) * multiple for side, multiple in zip(form.img_size, form.multiple, strict=True)
    )
    return height, width


@contextmanager
def _normalized_already(encoder: Encoder) -> Iterator[None]:
    """Lets the encoder take images that are normalised and padded; every encoder normalises by this method."""
    vars(encoder)["normalize"] = _as_it_is
    try:
        yield
    finally:
        del vars(encoder)["normalize"]


def _as_it_is(image: Tensor) -> Tensor:
    return image

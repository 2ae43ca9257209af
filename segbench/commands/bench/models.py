"""What models cost: parameters, FLOPs, a training step, an evaluated image; encoder and decoder apart.

Weights and images are random: neither changes what is computed.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.flop_counter import FlopCounterMode

from segbench.commands.bench.baseline import PlainSegmenter
from segbench.commands.bench.experiments import Changes, Model, build
from segbench.commands.bench.maps import block_labels
from segbench.commands.bench.section import (
    COSTS,
    VARIANT,
    Clock,
    Column,
    Measure,
    Row,
    Section,
    compare,
    significant,
)
from segbench.kernels.upsample_argmax import upsample_argmax
from segbench.tasks.semantic import SemanticTask
from segbench.types import Batch, Features, Prediction

Precision = Literal["fp32", "bf16"]
PARTS = ("encoder", "necks", "decoder")
STEPS = 10**6  # of a training that is never run; schedules want to know


class Setup(NamedTuple):
    """What is the same for all models of a run.

    Attributes:
        changes: What is set otherwise than in the experiments.
        batch_size: Images of a training step.
        precision: Of autocast.
        compile: Whether a row shows what `compile: true` makes of the whole.
    """

    changes: Changes = Changes()
    batch_size: int = 2
    precision: Precision = "fp32"
    compile: bool = False


EXPERIMENT = Column("model", lambda row: row["case"], is_text=True)


def _count(part: str) -> Column:
    return Column(part, lambda row: row.get("parameters", {}).get(part), "{:,}".format)


def _flops(part: str) -> Column:
    return Column(f"{part}, GFLOP", lambda row: row.get("flops", {}).get(part), lambda n: significant(n / 1e9))


SIZE = (
    EXPERIMENT,
    Column("pixels", lambda row: row.get("img_size"), lambda size: f"{size[0]}×{size[1]}"),
    Column("K", lambda row: row.get("num_classes")),
)
DIFFERENCE = Column("loss differs by", lambda row: row.get("loss_difference"), "{:.1e}".format)
AGREEMENT = Column("same labels", lambda row: row.get("agreement"), "{:.3%}".format)


def sections(files: Mapping[str, Path], setup: Setup) -> list[Section]:
    """Lists the sections.

    Args:
        files: Experiments by name.
        setup: What is the same for all.

    Returns:
        Size, training step and evaluation.
    """

    def cases(measure: Callable[[Model, Setup, str, Clock], list[Row]]) -> dict[str, Measure]:
        return {name: partial(_measure, measure, file, setup, name) for name, file in files.items()}

    plain = "The plain baseline is the same model as its peers have it: attention matrices, full-size logits"
    return [
        Section(
            "size",
            "Parameters, and FLOPs of one image's forward pass",
            "A multiplication and an addition are two FLOPs; matrix products, convolutions and attention are "
            "counted, upsampling and what is elementwise is not.",
            (*SIZE, *map(_count, (*PARTS, "total")), *map(_flops, (*PARTS, "total"))),
            cases(size),
        ),
        Section(
            "training",
            f"Training step, {setup.batch_size} images, {setup.precision}",
            f"{plain}. A step is forward, loss, backward and optimiser; its parts, forward and backward, were "
            "measured each by itself. The two losses are compared without dropout.",
            (*SIZE, VARIANT, *COSTS, DIFFERENCE),
            cases(training),
        ),
        Section(
            "evaluation",
            f"One image to labels, {setup.precision}",
            f"{plain}, which are resized and put through a softmax before the argmax. The parts were measured "
            "each by itself.",
            (*SIZE, VARIANT, *COSTS, AGREEMENT),
            cases(evaluation),
        ),
    ]


def _measure(
    measure: Callable[[Model, Setup, str, Clock], list[Row]], file: Path, setup: Setup, name: str, clock: Clock
) -> list[Row]:
    """Builds a model and measures it; one that cannot be built says why in its row."""
    try:
        model = build(file, setup.changes)
    except ValueError as error:
        return [{"case": name, "variant": "", "reason": str(error)}]
    model.task.log = _unheard  # type: ignore[method-assign]
    model.task.to(clock.device)
    shape = {"img_size": list(model.img_size), "num_classes": model.num_classes}
    return [row | shape for row in measure(model, setup, name, clock)]


def size(model: Model, _: Setup, name: str, clock: Clock) -> list[Row]:
    """Counts parameters and FLOPs, of each part and in all.

    Args:
        model: To be counted.
        _: Makes no difference.
        name: Of the case.
        clock: Says where.

    Returns:
        One row.
    """
    task = model.task.eval()
    parts = task.parts()
    parameters = {part: sum(p.numel() for p in parts[part].parameters()) for part in PARTS}
    flops = dict.fromkeys(PARTS, 0)
    value: Any = _images(model, 1, clock.device)
    for part in PARTS:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            value = parts[part](value)
        flops[part] = counter.get_total_flops()
    for counts in (parameters, flops):
        counts["total"] = sum(counts.values())
    return [{"case": name, "parameters": parameters, "flops": flops}]


def training(model: Model, setup: Setup, name: str, clock: Clock) -> list[Row]:
    """Measures a step, whole and in parts, beside the plain baseline.

    Args:
        model: To be measured.
        setup: Batch size and precision.
        name: Of the case.
        clock: How to measure.

    Returns:
        A row for each.
    """
    task = model.task
    with _attached(task):
        task.setup("fit")
    image = _images(model, setup.batch_size, clock.device)
    label = block_labels(
        model.num_classes, model.img_size, setup.batch_size, ignore_index=task.ignore_index
    ).to(clock.device)
    batch = Batch(image, label, tuple(str(i) for i in range(setup.batch_size)))
    cast = partial(_autocast, clock.device, setup.precision)
    exact = partial(_autocast, clock.device, "fp32")

    plain: PlainSegmenter | None = None
    works: dict[str, Callable[[], object] | str] = {}
    try:
        plain = PlainSegmenter(task).to(clock.device).train()
        plain_optimizer = _optimizer_of(task, plain)
        works["plain"] = partial(_plain_step, plain, plain_optimizer, image, label, exact)
        if setup.precision != "fp32":
            works[f"plain, {setup.precision}"] = partial(
                _plain_step, plain, plain_optimizer, image, label, cast
            )
    except ValueError as reason:
        works["plain"] = str(reason)
    difference = _loss_difference(task, plain, batch) if plain is not None else None

    task.train()
    optimizer = _optimizer(task)
    with torch.no_grad(), cast():
        features = task.encoder(image)
        prediction, (height, width) = task(image)
    missing = (0, width - label.shape[-1], 0, height - label.shape[-2])
    padded = F.pad(label, missing, value=task.ignore_index)
    works["segbench"] = partial(_step, task, optimizer, batch, cast)
    if setup.compile:
        compiled = _compiled(task)
        works["segbench, compiled"] = partial(_step, compiled, _optimizer(compiled), batch, cast)
    works |= {
        "encoder alone": partial(_there_and_back, lambda: task.encoder(image).maps, task, cast),
        "necks, decoder alone": partial(_there_and_back, lambda: _decode(task, features), task, cast),
        "loss alone": partial(_there_and_back, lambda: [_loss(task, prediction, padded)], task, cast),
        "optimiser alone": _optimizing(optimizer),
    }
    rows = compare(name, works, clock)
    for row in rows:
        if row["variant"] == "segbench" and "reason" not in row:
            row["loss_difference"] = difference
            row["batch_size"] = setup.batch_size
    return rows


def evaluation(model: Model, setup: Setup, name: str, clock: Clock) -> list[Row]:
    """Measures one image to labels, whole and in parts, beside the plain baseline.

    Args:
        model: To be measured.
        setup: Precision.
        name: Of the case.
        clock: How to measure.

    Returns:
        A row for each.
    """
    task = model.task.eval()
    with _attached(task):
        task.setup("validate")
    image = _images(model, 1, clock.device)
    cast = partial(_autocast, clock.device, setup.precision)
    exact = partial(_autocast, clock.device, "fp32")
    with torch.inference_mode(), cast():
        features = task.encoder(image)
        prediction, padded = task(image)
    works: dict[str, Callable[[], Any] | str] = {}
    try:
        plain = PlainSegmenter(task).to(clock.device).eval()
        works["plain"] = partial(_inferred, lambda: plain.segment(image), exact)
        if setup.precision != "fp32":
            works[f"plain, {setup.precision}"] = partial(_inferred, lambda: plain.segment(image), cast)
    except ValueError as reason:
        works["plain"] = str(reason)
    works["segbench"] = partial(_inferred, lambda: task.segment(image), cast)
    if setup.compile:
        compiled = _compiled(task)
        works["segbench, compiled"] = partial(_inferred, lambda: compiled.segment(image), cast)
    works |= {
        "encoder alone": partial(_inferred, lambda: task.encoder(image), cast),
        "necks, decoder alone": partial(_inferred, lambda: task.decoder(task.necks(features)), cast),
        "labels alone": partial(_inferred, lambda: upsample_argmax(prediction.logits, padded), cast),
    }
    rows = compare(name, works, clock)
    theirs, ours = works["plain"], works["segbench"]
    for row in rows:
        if row["variant"] == "segbench" and callable(theirs) and callable(ours) and "reason" not in row:
            row["agreement"] = (theirs() == ours()).double().mean().item()
    return rows


def _unheard(*_: Any, **__: Any) -> None:
    """Stands in for `log`, which without a trainer complains."""


def _images(model: Model, batch_size: int, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (batch_size, 3, *model.img_size)
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8).to(device)


def _autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def _inferred(work: Callable[[], Any], cast: Callable[[], AbstractContextManager[Any]]) -> Any:
    with torch.inference_mode(), cast():
        return work()


def _compiled(task: SemanticTask) -> SemanticTask:
    """Copies a task and compiles it, as `compile: true` does."""
    copy = deepcopy(task)
    copy.compile_parts()
    return copy


def _optimizer(task: SemanticTask) -> Optimizer:
    """Builds the optimiser as a trainer has it built."""
    with _attached(task):
        configured: Any = task.configure_optimizers()
    optimizer: Optimizer = configured["optimizer"]
    return optimizer


@contextmanager
def _attached(task: SemanticTask) -> Iterator[None]:
    """Lends a task what it asks its trainer for."""
    trainer = SimpleNamespace(datamodule=None, estimated_stepping_batches=STEPS, fast_dev_run=False)
    task.trainer = trainer  # type: ignore[assignment]
    try:
        yield
    finally:
        task.trainer = None


def _optimizer_of(task: SemanticTask, plain: PlainSegmenter) -> Optimizer:
    """Builds the same optimiser with the same groups over the baseline's own weights."""
    optimizer = _optimizer(task)
    twins = {
        id(ours): theirs
        for room, copy in ((task.encoder, plain.encoder), (task.decoder, plain.decoder))
        for ours, theirs in zip(room.parameters(), copy.parameters(), strict=True)
    }
    for group in optimizer.param_groups:
        group["params"] = [twins[id(parameter)] for parameter in group["params"]]
    return optimizer


def _step(
    task: SemanticTask, optimizer: Optimizer, batch: Batch, cast: Callable[[], AbstractContextManager[Any]]
) -> None:
    with cast():
        loss = task.training_step(batch, 0)["loss"]
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def _plain_step(
    plain: PlainSegmenter,
    optimizer: Optimizer,
    image: Tensor,
    label: Tensor,
    cast: Callable[[], AbstractContextManager[Any]],
) -> None:
    with cast():
        logits = plain(image)  # kept until the step is over, as by the peers
        loss = plain.cross_entropy(logits, label)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    optimizer.zero_grad()


def _there_and_back(
    forward: Callable[[], Iterable[Tensor]], task: SemanticTask, cast: Callable[[], AbstractContextManager[Any]]
) -> None:
    """Runs a part forward and, where anything in it learns, backward."""
    with cast():
        outputs = [output for output in forward() if output.requires_grad]
    if outputs:
        gradients = [torch.ones_like(output) for output in outputs]
        torch.autograd.backward(outputs, gradients)
    task.zero_grad()


def _decode(task: SemanticTask, features: Features) -> list[Tensor]:
    leaves = tuple(level.detach().requires_grad_() for level in features.maps)
    prediction = task.decoder(task.necks(Features(features.image, leaves)))
    return [output for output in prediction if output is not None]


def _loss(task: SemanticTask, prediction: Prediction, label: Tensor) -> Tensor:
    leaves = [None if output is None else output.detach().requires_grad_() for output in prediction]
    leaf = Prediction(*leaves)  # type: ignore[arg-type]  # logits are never None
    total = torch.zeros((), device=label.device)
    for loss in task.losses:
        total = total + loss.weight * loss(leaf, label)
    return total


def _optimizing(optimizer: Optimizer) -> Callable[[], None]:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    gradients = [torch.zeros_like(parameter) for parameter in parameters]

    def optimize() -> None:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        optimizer.zero_grad()

    return optimize


@torch.no_grad()
def _loss_difference(task: SemanticTask, plain: PlainSegmenter, batch: Batch) -> float:
    """Compares the losses of the same weights, as a share of the loss."""
    task.eval()
    plain.eval()
    ours = task.training_step(batch, 0)["loss"]
    theirs = plain.cross_entropy(plain(batch.image), batch.label)
    task.train()
    plain.train()
    return float(abs(ours - theirs) / theirs)

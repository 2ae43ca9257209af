"""The loss kernel's backends: time, peak memory, and gradient error against float64."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from segbench.commands.bench.gradient_error import ERROR, add_errors
from segbench.commands.bench.section import CASE, COSTS, VARIANT, Clock, Row, Section, backends, compare
from segbench.kernels.upsample_cross_entropy import upsample_cross_entropy


class Case(NamedTuple):
    """One size of problem: `batch` images of `img_size²` pixels, logits at `stride`."""

    num_classes: int
    img_size: int
    batch: int
    stride: int = 16

    def __str__(self) -> str:
        """Names it."""
        grid = self.img_size // self.stride
        return f"K={self.num_classes} B={self.batch} {grid}² to {self.img_size}²"


# ADE20K and Cityscapes as Segmenter trains on them, and both at the stride of a decoder with upsampling.
CASES = (
    Case(150, 512, 1),
    Case(150, 512, 2),
    Case(150, 512, 8),
    Case(150, 512, 2, 4),
    Case(19, 768, 1),
    Case(19, 768, 2),
    Case(19, 768, 2, 4),
)


def section(cases: Iterable[Case] = CASES) -> Section:
    """Describes the comparison.

    Args:
        cases: Sizes of problem.

    Returns:
        Its section; backends that cannot work on the device say so in their row.
    """
    return Section(
        "loss",
        "Loss: upsampling and cross-entropy, forward and backward to the low-resolution logits",
        "The gradient error is the largest one over the largest gradient, against float64.",
        (CASE, VARIANT, *COSTS, ERROR),
        {str(case): partial(measure, case) for case in cases},
    )


def measure(case: Case, clock: Clock) -> list[Row]:
    """Measures forward and backward of the loss down to the low-resolution logits.

    Args:
        case: The size of problem.
        clock: How to measure.

    Returns:
        One row for each backend, "plain" first.
    """
    grid = case.img_size // case.stride
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(case.batch, case.num_classes, grid, grid, generator=generator).to(clock.device)
    size = (case.batch, case.img_size, case.img_size)
    target = torch.randint(case.num_classes, size, generator=generator, dtype=torch.uint8)
    target = target.masked_fill(torch.rand(size, generator=generator) < 0.1, 255).to(clock.device)

    works: dict[str, Callable[[], tuple[Tensor, ...]] | str] = {
        backend: partial(_gradient, logits, target, backend) for backend in backends(upsample_cross_entropy)
    }
    if clock.device.type == "cpu" and "triton" in works:
        works["triton"] = "needs a GPU"  # its interpreter runs on the CPU, to test, not to measure
    rows = compare(str(case), works, clock)
    add_errors(rows, works, (_exact(logits, target),))
    return rows


def _gradient(logits: Tensor, target: Tensor, backend: Any) -> tuple[Tensor, ...]:
    leaf = logits.detach().requires_grad_()
    return torch.autograd.grad(upsample_cross_entropy(leaf, target, backend=backend), leaf)


def _exact(logits: Tensor, target: Tensor) -> Tensor:
    """Computes the gradient in float64, image by image: all at once would take many gigabytes."""
    counts = (target != 255).flatten(1).sum(1).double()
    parts = [
        _gradient(logits[i : i + 1].double(), target[i : i + 1], "plain")[0] * counts[i] / counts.sum()
        for i in range(len(logits))
    ]
    return torch.cat(parts)

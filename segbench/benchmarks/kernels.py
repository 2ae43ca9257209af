"""The chunked loss kernel against the plain one: time, peak memory, and gradient error against float64."""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from segbench.benchmarks.timing import Timing, peak_bytes, time_side_by_side
from segbench.kernels.upsample_cross_entropy import upsample_cross_entropy


class Case(NamedTuple):
    """One size of problem: `batch` images of `img_size²` pixels, logits at `stride`."""

    num_classes: int
    img_size: int
    batch: int
    stride: int = 16


class Row(NamedTuple):
    """What was measured of one case; `error` is max |gradient error| / max |gradient| against float64."""

    case: Case
    backend: str
    timing: Timing
    peak_bytes: int
    error: float


# ADE20K and Cityscapes as Segmenter trains on them, and both at the stride of a decoder with upsampling.
CASES = (
    Case(150, 512, 1),
    Case(150, 512, 2),
    Case(150, 512, 2, 4),
    Case(19, 768, 1),
    Case(19, 768, 2),
    Case(19, 768, 2, 4),
)
BACKENDS: tuple[Literal["plain", "chunked"], ...] = ("plain", "chunked")


def bench_loss(case: Case, repeats: int, device: torch.device) -> list[Row]:
    """Measures forward and backward of the loss down to the low-resolution logits.

    Args:
        case: The size of problem.
        repeats: Rounds of timing.
        device: Where to run.

    Returns:
        One row for each backend, "plain" first.
    """
    grid = case.img_size // case.stride
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(case.batch, case.num_classes, grid, grid, generator=generator).to(device)
    size = (case.batch, case.img_size, case.img_size)
    target = torch.randint(case.num_classes, size, generator=generator, dtype=torch.uint8)
    target = target.masked_fill(torch.rand(size, generator=generator) < 0.1, 255).to(device)

    def gradient(backend: Literal["plain", "chunked"], dtype: torch.dtype = torch.float32) -> Tensor:
        leaf = logits.to(dtype).requires_grad_()
        return torch.autograd.grad(upsample_cross_entropy(leaf, target, backend=backend), leaf)[0]

    candidates: dict[str, Callable[[], Tensor]] = {backend: partial(gradient, backend) for backend in BACKENDS}
    timings = time_side_by_side(candidates, repeats, device)
    exact = gradient("plain", torch.float64)
    rows = []
    for backend, work in candidates.items():
        error = ((work() - exact).abs().max() / exact.abs().max()).item()
        rows.append(Row(case, backend, timings[backend], peak_bytes(work, device), error))
    return rows


def table(rows: list[Row]) -> str:
    """Lays rows out as a Markdown table; ratios are to the first row of each case.

    Args:
        rows: The rows of any number of cases, each case's "plain" row first.

    Returns:
        The table, without a newline at its end.
    """
    lines = [
        "| K | pixels | B | stride | backend | time, ms | ratio | peak, MiB | ratio | gradient error |",
        "|--:|--:|--:|--:|---|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        case = row.case
        plain = next(other for other in rows if other.case == case)
        cells = (
            f"{case.num_classes}",
            f"{case.img_size}²",
            f"{case.batch}",
            f"{case.stride}",
            row.backend,
            f"{1e3 * row.timing.median_s:.1f}",
            f"{row.timing.ratio:.3f}",
            f"{row.peak_bytes / 2**20:.1f}",
            f"{row.peak_bytes / plain.peak_bytes:.3f}",
            f"{row.error:.1e}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)

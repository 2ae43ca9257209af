"""Mean shift against the formula written out: time, peak memory, and gradient error against float64."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from segbench.commands.bench.gradient_error import ERROR, add_errors
from segbench.commands.bench.section import CASE, COSTS, VARIANT, Clock, Row, Section, compare
from segbench.kernels.mean_shift import mean_shift


class Case(NamedTuple):
    """One size of problem: `batch` images of `num_tokens` tokens of width `embed_dim`, compared in `dim`."""

    num_tokens: int
    dim: int
    embed_dim: int = 192
    batch: int = 1

    def __str__(self) -> str:
        """Names it."""
        return f"N={self.num_tokens} d={self.dim} C={self.embed_dim} B={self.batch}"


# Tokens of a 512 and a 1024 crop of ViT/16; the thesis's widths on Ti and B.
CASES = (
    Case(1024, 64),
    Case(1024, 192),
    Case(1024, 768, 768),
    Case(4096, 64),
    Case(4096, 128),
    Case(4096, 192),
    Case(4096, 768, 768),
    Case(16384, 192),
)
# In float64 the written-out matrix and what becomes of it take 128 bytes for each of so many pairs of tokens.
MOST_CHECKED = 4096


def section(cases: Iterable[Case] = CASES) -> Section:
    """Describes the comparison.

    Args:
        cases: Sizes of problem.

    Returns:
        Its section.
    """
    return Section(
        "mean_shift",
        "Mean shift: one step, forward and backward to tokens and projection",
        f"Beside the formula written out. The error, up to {MOST_CHECKED} tokens, is as of the loss.",
        (CASE, VARIANT, *COSTS, ERROR),
        {str(case): partial(measure, case) for case in cases},
    )


def measure(case: Case, clock: Clock) -> list[Row]:
    """Measures forward and backward down to tokens and projection.

    Args:
        case: The size of problem.
        clock: How to measure.

    Returns:
        One row for each way, "plain" first.
    """
    generator = torch.Generator().manual_seed(0)
    tokens, grad, projected = (
        torch.randn(case.batch, case.num_tokens, width, generator=generator).to(clock.device)
        for width in (case.embed_dim, case.embed_dim, case.dim)
    )
    # Similarities of standard deviation 1: far above, softmax is the identity and gradients are rounding.
    projected = projected * case.dim**-0.25

    def gradients(
        shift: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, ...]:
        leaves = [leaf.to(dtype).requires_grad_() for leaf in (tokens, projected)]
        return torch.autograd.grad(shift(*leaves), leaves, grad.to(dtype))

    works = {"plain": partial(gradients, _plain), "segbench": partial(gradients, mean_shift)}
    rows = compare(str(case), works, clock)
    if case.num_tokens <= MOST_CHECKED:
        add_errors(rows, works, gradients(_plain, torch.float64))
    return rows


def _plain(tokens: Tensor, projected: Tensor) -> Tensor:
    similarity = projected @ projected.transpose(1, 2) * projected.shape[-1] ** -0.5
    moved: Tensor = similarity.softmax(-1) @ tokens
    return moved

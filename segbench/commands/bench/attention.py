"""Attention against its formula and torch's own kernel: time, peak memory, and gradient error."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from segbench.commands.bench.gradient_error import ERROR, add_errors
from segbench.commands.bench.section import CASE, COSTS, VARIANT, Clock, Row, Section, compare
from segbench.kernels.attention import attention


class Case(NamedTuple):
    """One size of problem: `batch` images of `num_tokens` tokens in `num_heads` heads of `width` channels."""

    num_tokens: int
    dropout: float = 0.0
    num_heads: int = 3
    width: int = 64
    batch: int = 2

    def __str__(self) -> str:
        """Names it."""
        dropout = f" dropout={self.dropout:g}" if self.dropout else ""
        return f"N={self.num_tokens} H={self.num_heads} d={self.width} B={self.batch}{dropout}"


# Crops of 512 and 768 in ViT-Ti/16, and in the mask decoder with 150 and 19 classes.
CASES = (Case(1025), Case(2305), Case(1174, 0.1), Case(2323, 0.1))


def section(cases: Iterable[Case] = CASES) -> Section:
    """Describes the comparison.

    Args:
        cases: Sizes of problem.

    Returns:
        Its section.
    """
    return Section(
        "attention",
        "Attention: forward and backward to queries, keys and values",
        "Beside the formula written out and torch's `scaled_dot_product_attention`. The error is as of the "
        "loss; with dropout there is none, since each drops other weights. Peaks are torch's: going back, the "
        "kernel in C takes some 20·N·d bytes past them for each thread, 1.5 MB at N=1025 and d=64.",
        (CASE, VARIANT, *COSTS, ERROR),
        {str(case): partial(measure, case) for case in cases},
    )


def measure(case: Case, clock: Clock) -> list[Row]:
    """Measures forward and backward down to one tensor of queries, keys and values, as transformers hold them.

    Args:
        case: The size of problem.
        clock: How to measure.

    Returns:
        One row for each way, "plain" first.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (case.batch, case.num_tokens, 3, case.num_heads, case.width)
    packed = torch.randn(shape, generator=generator).to(clock.device)
    grad = torch.randn(case.batch, case.num_tokens, case.num_heads, case.width, generator=generator)
    grad = grad.to(clock.device).transpose(1, 2)

    def gradients(
        function: Callable[[Tensor, Tensor, Tensor, float], Tensor], dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, ...]:
        leaf = packed.to(dtype).requires_grad_()
        query, key, value = leaf.permute(2, 0, 3, 1, 4).unbind(0)
        return torch.autograd.grad(function(query, key, value, case.dropout), leaf, grad.to(dtype))

    ways = {"plain": _plain, "torch": _torch, "segbench": attention}
    works = {name: partial(gradients, way) for name, way in ways.items()}
    rows = compare(str(case), works, clock)
    if not case.dropout:
        add_errors(rows, works, gradients(_plain, torch.float64))
    return rows


def _plain(query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
    weights = (query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2)).softmax(-1)
    return F.dropout(weights, dropout) @ value


def _torch(query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)

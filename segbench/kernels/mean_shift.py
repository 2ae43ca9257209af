"""One step of mean shift, `softmax(R Rᵀ / τ√d) x`, without the N×N matrix in forward and backward.

As flash attention does (https://arxiv.org/abs/2205.14135), tiles of the matrix are computed where they are
needed, once more in the backward pass. But here queries are keys, and with `r` scaled by `1/√(τ√d)`

    exp(r·r') = exp(|r|²/2) · exp(−|r − r'|²/2) · exp(|r'|²/2),

a Gaussian kernel between two diagonals. It is symmetric, so a tile above the diagonal serves the one below as
well, and at most 1, so that softmax needs no maximum. Naive mean shift takes `6 N²` products of width `d = C`
there and back, attention kernels 7, this 5.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segbench.functional.tracing import is_free

# Up to here the N×N matrix is cheap: at 1024 tokens tiles saved no time, at 4096 a tenth of
# the memory is left, and no time is lost.
MANY_TOKENS = 2048
# Two float32 tiles take 2 MiB. On two cores smaller ones were slower; larger ones gained little and held more.
TILE = (512, 512)
# Of ln(largest / smallest factor exp(|r|²/2)): float32 ends at ±87, and products of two factors occur.
WIDEST_SPREAD = 40.0


def mean_shift(tokens: Tensor, projected: Tensor, temperature: float = 1.0) -> Tensor:
    """Moves every token once: `softmax(R Rᵀ / τ√d) x`.

    Many tokens on a CPU go by tiles, unless in half precision, for which torch's kernels have instructions. The
    rest is torch's attention; its memory-efficient kernels want keys and values of one width, so where the
    matrix would be large zeros are appended to the narrower side, which change neither the dot products nor the
    kept part of the result.

    Args:
        tokens: `x`, `(B, N, C)`.
        projected: `R`, `(B, N, d)`.
        temperature: `τ`.

    Returns:
        The moved tokens `(B, N, C)`.

    Raises:
        ValueError: In a second derivative by tiles, which there is none of.
    """
    width, dim = tokens.shape[-1], projected.shape[-1]
    scale = dim**-0.5 / temperature
    many = not is_free(tokens.shape[1]) and tokens.shape[1] > MANY_TOKENS
    full_precision = tokens.dtype == projected.dtype and tokens.dtype in (torch.float32, torch.float64)
    # Exported graphs keep to operations that other runtimes know.
    if many and full_precision and tokens.device.type == "cpu" and not torch.compiler.is_exporting():
        by_tiles: Tensor = _moved(tokens, projected, scale)[0]
        return by_tiles
    common = max(width, dim) if many else 0
    # One head: kernels want (B, heads, N, width).
    query = F.pad(projected, (0, max(0, common - dim))).unsqueeze(1)
    value = F.pad(tokens, (0, max(0, common - width))).unsqueeze(1)
    moved = F.scaled_dot_product_attention(query, query, value, scale=scale)
    return moved.squeeze(1)[..., :width]


@torch.library.custom_op("segbench::mean_shift", mutates_args=())
def _moved(tokens: Tensor, projected: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Computes the moved tokens `(B, N, C)`, and what the backward pass divides by, `(B, N, 1)`."""
    moved, mass = torch.empty_like(tokens), tokens.new_ones(*tokens.shape[:2], 1)
    with torch.autocast(tokens.device.type, enabled=False):
        for image, x in enumerate(tokens):
            key, weight = _factors(projected[image], scale)
            if weight is None:
                r = key[:, :-2]
                for rows in _parts(0, len(x), TILE[0]):
                    torch.mm((r[rows] @ r.t()).softmax(1), x, out=moved[image, rows])
                continue
            weighted = _weighted(x, weight, slice(None))  # (N, C + 1)
            total = torch.zeros_like(weighted)
            for rows, columns, kernel in _kernel_tiles(key):
                _add_product(total, rows, columns, kernel, weighted)
            mass[image] = total[:, -1:]
            torch.div(total[:, :-1], mass[image], out=moved[image])
    return moved, mass


@torch.library.custom_op("segbench::mean_shift_backward", mutates_args=())
def _gradients(
    grad: Tensor, tokens: Tensor, projected: Tensor, moved: Tensor, mass: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Computes the gradients of tokens `(B, N, C)` and projection `(B, N, d)`."""
    grad_tokens, grad_projected = torch.zeros_like(tokens), torch.zeros_like(projected)
    with torch.autocast(tokens.device.type, enabled=False):
        for image, x in enumerate(tokens):
            grad_x, grad_r = grad_tokens[image], grad_projected[image]
            key, weight = _factors(projected[image], scale)
            r = key[:, :-2]
            dot = torch.linalg.vecdot(grad[image], moved[image])[:, None]  # (N, 1)
            if weight is None:
                for rows in _parts(0, len(x), TILE[0]):
                    shares = (r[rows] @ r.t()).softmax(1)
                    grad_x.addmm_(shares.t(), grad[image, rows])
                    shares.mul_((grad[image, rows] @ x.t()).sub_(dot[rows]))
                    grad_r[rows].addmm_(shares, r)
                    grad_r.addmm_(shares.t(), r[rows])
                continue
            # Its product with a row of `weighted` is softmax's backward up to the factor that is the kernel.
            pulled = torch.cat((grad[image], -dot), 1).div_(mass[image])  # (N, C + 1)
            spare = r.new_empty(TILE[0] * max(TILE))
            for rows, columns, kernel in _kernel_tiles(key):
                _add_product(grad_x, rows, columns, kernel, pulled[:, :-1])
                # Queries are keys: of the similarities' gradient only the sum with its transpose matters.
                slope = spare[: kernel.numel()].view_as(kernel)
                torch.mm(pulled[rows], _weighted(x, weight, columns).t(), out=slope)
                slope.addmm_(_weighted(x, weight, rows), pulled[columns].t()).mul_(kernel)
                _add_product(grad_r, rows, columns, slope, r)
            grad_x.mul_(weight)
    return grad_tokens, grad_projected.mul_(math.sqrt(scale))


@_moved.register_fake
def _fake_moved(tokens: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(tokens), tokens.new_empty(*tokens.shape[:2], 1)


@_gradients.register_fake
def _fake_gradients(_grad: Tensor, tokens: Tensor, projected: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(tokens), torch.empty_like(projected)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    tokens, projected, ctx.scale = inputs
    ctx.save_for_backward(tokens, projected, *output)


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled():  # as under create_graph=True
        raise ValueError(
            f"mean shift of more than {MANY_TOKENS} tokens has no second derivative; take smaller images"
        )
    return (*_gradients(grad, *ctx.saved_tensors, ctx.scale), None)


_moved.register_autograd(_backward, setup_context=_save)


def _factors(projected: Tensor, scale: float) -> tuple[Tensor, Tensor | None]:
    """Splits softmax's numerator into a symmetric kernel and a factor of each column.

    Returns:
        Rows `(r, 1, −|r|²/2)`, `(N, d + 2)`, from which `_kernel_tiles` computes the kernel; and `exp(|r|²/2)`
        up to a common factor, `(N, 1)`, or None where such numbers would leave the range.
    """
    count, dim = projected.shape
    key = projected.new_ones(count, dim + 2)
    r = torch.mul(projected, math.sqrt(scale), out=key[:, :dim])
    half = torch.linalg.vecdot(r, r)[:, None] / 2
    torch.neg(half, out=key[:, dim + 1 :])
    lowest, highest = half.aminmax()
    # A comparison with nan is false: nan takes the way by rows, and comes out as nan.
    return key, (half - highest).exp_() if bool(highest - lowest < WIDEST_SPREAD) else None


def _kernel_tiles(key: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """Computes `exp(−|r − r'|²/2)` on and above the diagonal, one tile after another in the same memory.

    All of the exponent `r·r' − |r|²/2 − |r'|²/2` comes out of one product.
    """
    buffer = key.new_empty(TILE[0] * max(TILE))
    for rows in _parts(0, len(key), TILE[0]):
        query = torch.cat((key[rows, :-2], key[rows, -1:], key[rows, -2:-1]), 1)  # (r, −|r|²/2, 1)
        for columns in (rows, *_parts(rows.stop, len(key), TILE[1])):
            tile = buffer[: len(query) * (columns.stop - columns.start)].view(len(query), -1)
            yield rows, columns, torch.mm(query, key[columns].t(), out=tile).exp_()


def _weighted(x: Tensor, weight: Tensor, part: slice) -> Tensor:
    return torch.cat((x[part] * weight[part], weight[part]), 1)


def _add_product(total: Tensor, rows: slice, columns: slice, tile: Tensor, factor: Tensor) -> None:
    """Adds a tile's share, and that of its mirror image, of a symmetric matrix times `factor`."""
    total[rows].addmm_(tile, factor[columns])
    if rows != columns:
        total[columns].addmm_(tile.t(), factor[rows])


def _parts(start: int, stop: int, length: int) -> Iterator[slice]:
    for first in range(start, stop, length):
        yield slice(first, min(stop, first + length))

"""Self-attention, by torch or by a kernel in C that is faster on many tokens and holds no matrix for dropout.

On a CPU torch's fused kernel knows no dropout: with it, several N×N matrices are held.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from segbench.kernels import native
from segbench.kernels.attention import c_kernel as native_attention
from segbench.kernels.backends import choose_backend

# On fewer, calling the kernel takes what it saves; torch's way with dropout loses earlier.
LEAST_TOKENS = 512
LEAST_TOKENS_WITH_DROPOUT = 128
WIDEST_HEAD = 128  # its tiles fill the second cache


def attention(
    query: Tensor, key: Tensor, value: Tensor, dropout: float = 0.0, scale: float | None = None
) -> Tensor:
    """Computes `softmax(scale · Q Kᵀ) V`, with some of the weights set to zero.

    In C for many tokens of float32 on a CPU with AVX2 or AVX-512 and a compiler, unless SEGBENCH_KERNELS says
    plain or chunked. The same tokens then give the same result with any number of threads. Otherwise by torch's
    `scaled_dot_product_attention`: other precisions, autocast, other devices, exported graphs.

    Args:
        query: `(B, H, N, d)`.
        key: `(B, H, M, d)`.
        value: `(B, H, M, c)`.
        dropout: Share of weights set to zero, the others divided by what is left; drawn from torch's generator.
            The kernel in C rounds it to a multiple of 2⁻¹⁶.
        scale: Of the logits; `d^-½` by default.

    Returns:
        `(B, H, N, c)`.

    Raises:
        ValueError: In a second derivative by the kernel in C, which there is none of.
    """
    if not _for_native(query, key, value, dropout):
        return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, scale=scale)
    dropped = round(dropout * native_attention.WEIGHTS)
    # Named device and type, since others may be set as default.
    seed = torch.randint(2**63 - 1, (), dtype=torch.int64, device="cpu") if dropped else None
    if scale is None:
        scale = query.shape[-1] ** -0.5
    mixed: Tensor = _mixed(query, key, value, scale, dropped, seed)[0]
    return mixed


def _for_native(query: Tensor, key: Tensor, value: Tensor, dropout: float) -> bool:
    """Returns whether the kernel in C can do this, and sooner."""
    return (
        # Exported graphs keep to operations that other runtimes know. Asked first: a graph that was asked for
        # its number of tokens would take no other side of the threshold from then on.
        not torch.compiler.is_exporting()
        and not torch.jit.is_tracing()  # type: ignore[no-untyped-call, attr-defined]
        and query.ndim == 4
        and query.shape == key.shape == value.shape
        and query.shape[2] >= (LEAST_TOKENS_WITH_DROPOUT if dropout else LEAST_TOKENS)
        and 0 < query.shape[3] <= WIDEST_HEAD
        and query.numel() > 0
        and 0 <= dropout < 1 - 1 / native_attention.WEIGHTS
        and all(x.dtype == torch.float32 and x.device.type == "cpu" for x in (query, key, value))
        and not torch.is_autocast_enabled("cpu")
        and _native_is_wanted()
    )


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _native_is_wanted() -> bool:
    wanted = choose_backend("auto", ("native", "plain")) == "native"
    return wanted and native.available() and native_attention.is_fast()


@torch.library.custom_op("segbench::attention", mutates_args=())
def _mixed(
    query: Tensor, key: Tensor, value: Tensor, scale: float, dropped: int, seed: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Computes the mixed values `(B, H, N, d)` and what the backward pass needs, `(B, H, N, 2)`."""
    return native_attention.forward(query, key, value, scale, dropped, _number(seed))


@torch.library.custom_op("segbench::attention_backward", mutates_args=())
def _gradients(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    statistics: Tensor,
    scale: float,
    dropped: int,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Computes the gradients of queries, keys and values."""
    inputs = (query, key, value, out, statistics)
    return native_attention.backward(grad, *inputs, scale, dropped, _number(seed))


def _number(seed: Tensor | None) -> int:
    return 0 if seed is None else int(seed)


@_mixed.register_fake
def _fake_mixed(query: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return native_attention.tokens_first(query), query.new_empty(*query.shape[:3], 2)


@_gradients.register_fake
def _fake_gradients(_grad: Tensor, query: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    grad_query, grad_key, grad_value = (native_attention.tokens_first(query) for _ in range(3))
    return grad_query, grad_key, grad_value


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, ctx.scale, ctx.dropped, seed = inputs
    ctx.save_for_backward(query, key, value, *output, seed)


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled():  # as under create_graph=True
        raise ValueError(
            "the native attention has no second derivative; set SEGBENCH_KERNELS=plain and take small images"
        )
    *tensors, seed = ctx.saved_tensors
    return (*_gradients(grad, *tensors, ctx.scale, ctx.dropped, seed), None, None, None)


_mixed.register_autograd(_backward, setup_context=_save)


def _count_flops(products: int, shape: Any) -> int:
    batch, heads, length, width = shape
    return products * 2 * int(batch * heads * length * length * width)


@register_flop_formula(torch.ops.segbench.attention)
def _flops(query_shape: Any, *_: Any, **__: Any) -> int:
    return _count_flops(2, query_shape)


@register_flop_formula(torch.ops.segbench.attention_backward)
def _flops_backward(grad_shape: Any, *_: Any, **__: Any) -> int:
    return _count_flops(5, grad_shape)

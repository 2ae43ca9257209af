"""Attention in C, forward and backward, in the memory of a few tiles; see `native/attention.c`."""

import ctypes
import math
from typing import Any

from torch import Tensor

from segbench.kernels import native

WEIGHTS = 1 << 16  # the hash of a weight has so many values
# At least so many, for as many cores. Each packs what it reads once more: on two cores 12 were no faster,
# 48 took 4 to 13 % longer.
_TASKS = 24
_LEAST = 128  # rows or columns of a task


def is_fast() -> bool:
    """Returns whether the library, which must be available, was compiled for a processor that suits it."""
    return bool(native.library().attention_is_fast())


def forward(
    query: Tensor, key: Tensor, value: Tensor, scale: float, dropped: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Mixes values.

    Args:
        query: `(B, H, N, d)` float32 on the CPU.
        key: Likewise.
        value: Likewise.
        scale: Of the logits.
        dropped: Of `WEIGHTS` weights.
        seed: Which of them; any 63 bits.

    Returns:
        `(B, H, N, d)`, whose memory is `(B, N, H, d)`, and what the backward pass needs, `(B, H, N, 2)`.

    Raises:
        ValueError: If memory runs out.
    """
    query, key, value = (_readable(x) for x in (query, key, value))
    batch, heads, length, _ = query.shape
    out = tokens_first(query)
    statistics = query.new_empty(batch, heads, length, 2)
    problem = _Problem(
        *map(_heads, (query, key, value, out)), *[_Heads()] * 4, native.pointer(statistics), seed, *query.shape
    )
    problem.scale, problem.dropped = scale, dropped
    _run("attention_forward", problem, _parts(batch * heads, length))
    return out, statistics


def backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    statistics: Tensor,
    scale: float,
    dropped: int,
    seed: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Computes the gradients of queries, keys and values; see `forward`.

    Args:
        grad: That of `out`.
        query: As before, and so on.
        key: See there.
        value: See there.
        out: What `forward` returned.
        statistics: Likewise.
        scale: As before.
        dropped: As before.
        seed: As before.

    Returns:
        Three tensors `(B, H, N, d)`, whose memory is `(B, N, H, d)`.

    Raises:
        ValueError: If memory runs out.
    """
    grad, query, key, value, out = (_readable(x) for x in (grad, query, key, value, out))
    batch, heads, length, width = query.shape
    parts = _parts(batch * heads, length)
    grad_key, grad_value = tokens_first(query), tokens_first(query)
    of_parts = query.new_empty(parts, batch, length, heads, width)
    grad_query = of_parts.transpose(2, 3)
    problem = _Problem(
        *map(_heads, (query, key, value, out, grad, grad_query[0], grad_key, grad_value)),
        *(native.pointer(statistics), seed, *query.shape),
    )
    problem.scale, problem.dropped, problem.grad_query_part = scale, dropped, of_parts.stride(0)
    _run("attention_backward", problem, parts)
    return grad_query[0] if parts == 1 else of_parts.sum(0).transpose(1, 2), grad_key, grad_value


def tokens_first(like: Tensor) -> Tensor:
    """Makes a tensor `(B, H, N, d)` whose memory is `(B, N, H, d)`, as linear layers want it next."""
    batch, heads, length, width = like.shape
    return like.new_empty(batch, length, heads, width).transpose(1, 2)


class _Heads(ctypes.Structure):
    """`struct heads` of the C file."""

    _fields_ = [("data", ctypes.c_void_p), *((name, ctypes.c_int64) for name in ("batch", "head", "row"))]


class _Problem(ctypes.Structure):
    """`struct attention` of the C file."""

    _fields_ = [
        *((name, _Heads) for name in ("query", "key", "value", "out")),
        *((name, _Heads) for name in ("grad_out", "grad_query", "grad_key", "grad_value")),
        *(("statistics", ctypes.c_void_p), ("seed", ctypes.c_uint64)),
        *((name, ctypes.c_int64) for name in ("batch", "heads", "length", "width")),
        *(("parts", ctypes.c_int64), ("grad_query_part", ctypes.c_int64)),
        *(("scale", ctypes.c_float), ("dropped", ctypes.c_int32)),
    ]


def _heads(x: Tensor) -> _Heads:
    return _Heads(x.data_ptr(), *x.stride()[:3])


def _readable(x: Tensor) -> Tensor:
    return x if x.stride(3) == 1 else x.contiguous()


def _parts(heads: int, length: int) -> int:
    """Into how many tasks a head is cut, whatever the number of threads."""
    return max(1, min(math.ceil(_TASKS / heads), length // _LEAST))


def _run(name: str, problem: _Problem, parts: int) -> None:
    problem.parts = parts
    function: Any = getattr(native.library(), name)
    function.argtypes = (ctypes.POINTER(_Problem), ctypes.c_int64)
    if any(native.in_parallel(lambda task: function(problem, task), problem.batch * problem.heads * parts)):
        raise ValueError("no memory is left for a few tiles of attention; lower the batch size")

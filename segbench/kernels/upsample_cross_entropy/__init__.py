"""Cross-entropy at full resolution straight from low-resolution logits, never holding the upsampled logits.

The value is that of `F.cross_entropy(F.interpolate(logits, size, mode="bilinear"), target)`; the gradient of
the low-resolution logits is computed in the same pass. This file chooses who computes it, and ties it to
autograd.
"""

import importlib
import importlib.util
import os
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from segbench.kernels import native
from segbench.kernels.backends import choose_backend, preference
from segbench.kernels.upsample_cross_entropy import c_kernel as native_upsample_cross_entropy
from segbench.kernels.upsample_cross_entropy import chunked as chunked_upsample_cross_entropy
from segbench.kernels.upsample_cross_entropy import plain as plain_upsample_cross_entropy
from segbench.utils.distributed import all_reduce_sum

Backend = Literal["auto", "plain", "chunked", "native", "triton"]

LABEL_TYPES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def upsample_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int = 255,
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    clip: float | None = None,
    pixel_weight: Tensor | None = None,
    mean_over: Literal["valid", "all"] = "valid",
    padded: tuple[int, int] | None = None,
    deterministic: bool | None = None,
    whole_batch: bool = False,
    backend: Backend = "auto",
) -> Tensor:
    """Computes the mean cross-entropy of bilinearly upsampled logits.

    Args:
        logits: `(B, K, h, w)`.
        target: `(B, H, W)` integer classes; uint8 is the cheapest.
        ignore_index: The label of pixels that do not count.
        weight: `(K,)` factor of each class, which also enters the mean.
        label_smoothing: Share of the target that is spread evenly over all classes.
        clip: The most that a pixel can cost before weighting; from there on its gradient is 0.
        pixel_weight: `(B, H, W)` factor of each pixel, 0 or more, which also enters the mean.
        mean_over: "valid" divides by the weights of the pixels that count, "all" by `B·H·W`, as MMSegmentation
            does unless told `avg_non_ignore`.
        padded: `(H', W')` to which the logits are upsampled before they are cropped to `(H, W)`, where the
            image was padded to whole patches below and to the right; null for `(H, W)`.
        deterministic: Equal results bit by bit from run to run, at a price on a GPU only. null does as
            `torch.use_deterministic_algorithms` said. On the CPU they always are, with any number of threads.
        whole_batch: Take the mean over the shares of all processes that train together, each of which must
            call this; false takes it over these tensors alone.
        backend: "plain" holds all upsampled logits, "chunked" a few rows of them, "native" (C, CPU) and
            "triton" (CUDA) none. "auto" takes what the environment variable SEGBENCH_KERNELS says, where that
            can be had, else the fastest there is.

    Returns:
        A scalar, float32 for half-precision logits; 0, not nan, when every pixel is ignored.

    Raises:
        ValueError: If a shape, type, option or backend is unsuitable or, on the CPU, a label is out of range.
    """
    _check_tensors(logits, target, weight, pixel_weight)
    size = (target.shape[1], target.shape[2])
    padded = size if padded is None else (padded[0], padded[1])
    _check_options(label_smoothing, clip, mean_over, size, padded)
    if backend not in get_args(Backend):
        raise ValueError(f"backend is {backend!r}; choose one of {', '.join(get_args(Backend))}")
    if deterministic is None:
        deterministic = torch.are_deterministic_algorithms_enabled()
    options = (ignore_index, label_smoothing, clip, padded)
    with torch.autocast(logits.device.type, enabled=False):
        if backend == "plain" or (backend == "auto" and preference() == "plain"):
            cost, total = plain_upsample_cross_entropy.loss_and_weight(
                logits, target, weight, pixel_weight, *options
            )
        else:
            needs_grad = logits.requires_grad and torch.is_grad_enabled()
            tensors = (logits, target, *(None if w is None else w.detach() for w in (weight, pixel_weight)))
            cost, total, _ = _fused(*tensors, *options, needs_grad, deterministic, backend)
        total = torch.full_like(total, target.numel()) if mean_over == "all" else total.detach()
        if whole_batch:
            cost, total = all_reduce_sum(cost, total)
        return cost * torch.where(total == 0, 0.0, 1 / total)


@torch.library.custom_op("segbench::upsample_cross_entropy", mutates_args=())
def _fused(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    pixel_weight: Tensor | None,
    ignore_index: int,
    smoothing: float,
    clip: float | None,
    padded: Sequence[int],
    needs_grad: bool,
    deterministic: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Computes cost and weight of all pixels, and the cost's gradient `(B, K, h, w)`, empty unless needed."""
    chosen = _choose(backend, logits)
    fused: Callable[..., tuple[Tensor, Tensor, Tensor]]
    if chosen == "triton":
        fused = importlib.import_module(
            "segbench.kernels.upsample_cross_entropy.triton_kernel"
        ).loss_and_gradient
    elif chosen == "native":
        fused = native_upsample_cross_entropy.loss_and_gradient
    else:
        fused = chunked_upsample_cross_entropy.loss_and_gradient
    height, width = padded
    options = (ignore_index, smoothing, clip, (height, width), needs_grad, deterministic)
    return fused(logits, target, weight, pixel_weight, *options)


@_fused.register_fake
def _fake(logits: Tensor, *options: Any) -> tuple[Tensor, Tensor, Tensor]:
    dtype = torch.promote_types(logits.dtype, torch.float32)
    cost, total = logits.new_empty((), dtype=dtype), logits.new_empty((), dtype=dtype)
    needs_grad = options[-3]
    return cost, total, logits.new_empty(logits.shape if needs_grad else (0,), dtype=dtype)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    # Kept in float32 for half-precision logits: a gradient scaler multiplies before the cast, not after it.
    ctx.save_for_backward(output[2])
    ctx.dtype = inputs[0].dtype


def _backward(ctx: Any, grad_cost: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled():  # as under create_graph=True; the stored gradient would pass for a constant
        raise ValueError('the fused loss has no second derivative; choose backend="plain" for one')
    (grad,) = ctx.saved_tensors
    return ((grad * grad_cost).to(ctx.dtype), *[None] * 10)


_fused.register_autograd(_backward, setup_context=_save)


def _choose(backend: str, logits: Tensor) -> str:
    """Resolves "auto"; a backend that was named is taken, and says itself what it lacks."""
    device, double = logits.device.type, logits.dtype == torch.float64
    has_triton = importlib.util.find_spec("triton") is not None
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if backend == "triton" and not (has_triton and (device == "cuda" or interpreted)):
        raise ValueError(
            f"the triton loss needs the package triton and a GPU, not {device}; choose auto or chunked"
        )
    if backend != "auto":
        return backend
    offered = ["chunked"]
    if device == "cuda" and has_triton and not double and preference() in ("auto", "triton"):
        from segbench.kernels.upsample_cross_entropy import self_check

        if self_check.triton_agrees(logits.device):
            offered.insert(0, "triton")
    if device == "cpu" and not double and native.available():
        offered.insert(0, "native")
    return choose_backend(backend, offered)


def _check_tensors(logits: Tensor, target: Tensor, weight: Tensor | None, pixel_weight: Tensor | None) -> None:
    if logits.ndim != 4 or not logits.is_floating_point() or 0 in logits.shape:
        raise ValueError(
            f"logits must be (B, K, h, w) of a float type; got {tuple(logits.shape)} {logits.dtype}"
        )
    if target.ndim != 3 or target.dtype not in LABEL_TYPES or 0 in target.shape:
        raise ValueError(
            f"target must be (B, H, W) of an integer type; got {tuple(target.shape)} {target.dtype}"
        )
    if len(logits) != len(target):
        raise ValueError(f"logits have {len(logits)} images and target {len(target)}; give one map for each")
    if weight is not None and weight.shape != logits.shape[1:2]:
        raise ValueError(f"weight must be ({logits.shape[1]},), one for each class; got {tuple(weight.shape)}")
    if pixel_weight is not None and pixel_weight.shape != target.shape:
        raise ValueError(
            f"pixel_weight must be {tuple(target.shape)}, as target is; got {tuple(pixel_weight.shape)}"
        )


def _check_options(
    smoothing: float, clip: float | None, mean_over: str, size: tuple[int, int], padded: tuple[int, int]
) -> None:
    if not 0 <= smoothing <= 1:
        raise ValueError(f"label_smoothing must lie in [0, 1]; got {smoothing}")
    if clip is not None and not clip > 0:
        raise ValueError(f"clip must be positive, or nothing is learned; got {clip}")
    if clip is not None and smoothing:
        raise ValueError("clip and label_smoothing exclude each other; set one of them")
    if mean_over not in ("valid", "all"):
        raise ValueError(f'mean_over is {mean_over!r}; choose "valid" or "all"')
    if padded[0] < size[0] or padded[1] < size[1]:
        raise ValueError(f"padded is {padded}, smaller than the target's {size}; padding only adds")

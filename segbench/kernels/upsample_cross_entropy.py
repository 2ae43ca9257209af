"""Cross-entropy at full resolution straight from low-resolution logits, never holding the upsampled logits.

The value is that of `F.cross_entropy(F.interpolate(logits, size, mode="bilinear"), target)`; the gradient of
the low-resolution logits is computed in the same pass.
"""

import math
import os
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from segbench.functional.pixel_runs import fold_, interpolate, sort_into_runs

Backend = Literal["auto", "plain", "chunked"]

# Upsampled logits in flight. CPU: they stay in cache. Elsewhere: so many that launches do not count.
BAND_BYTES_CPU = 8 << 20
BAND_BYTES_DEVICE = 128 << 20
LABEL_TYPES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def upsample_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int = 255,
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    backend: Backend = "auto",
) -> Tensor:
    """Computes the mean cross-entropy of bilinearly upsampled logits.

    Args:
        logits: `(B, K, h, w)`.
        target: `(B, H, W)` integer classes; uint8 is the cheapest.
        ignore_index: The label of pixels that do not count.
        weight: `(K,)` factor of each class, which also enters the mean.
        label_smoothing: Share of the target that is spread evenly over all classes.
        backend: "plain" holds all upsampled logits, "chunked" a few rows of them. "auto" takes what the
            environment variable SEGBENCH_KERNELS says, else "chunked".

    Returns:
        A scalar, float32 for half-precision logits; 0, not nan, when every pixel is ignored.

    Raises:
        ValueError: If a shape, type or backend is unsuitable or, on the CPU, a label is no class.
    """
    _check_arguments(logits, target, weight, label_smoothing)
    chosen = _choose(backend)
    with torch.autocast(logits.device.type, enabled=False):
        if chosen == "plain":
            return _plain(logits, target, weight, ignore_index, label_smoothing)
        needs_grad = logits.requires_grad and torch.is_grad_enabled()
        loss: Tensor = _chunked(logits, target, weight, ignore_index, label_smoothing, needs_grad)[0]
        return loss


def _plain(
    logits: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, smoothing: float
) -> Tensor:
    """Computes the loss the obvious way."""
    full = F.interpolate(
        logits.to(_accumulator(logits)), target.shape[1:], mode="bilinear", align_corners=False
    )
    label = target.long()
    valid = label != ignore_index
    label = _known(label, valid, logits.shape[1])
    class_weight = _class_weight(weight, logits)
    known = label.where(valid, -1)
    loss = F.cross_entropy(
        full, known, class_weight, ignore_index=-1, reduction="sum", label_smoothing=smoothing
    )
    return loss * _inverse((class_weight[label] * valid).sum())


@torch.library.custom_op("segbench::upsample_cross_entropy", mutates_args=())
def _chunked(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    smoothing: float,
    needs_grad: bool,
) -> tuple[Tensor, Tensor]:
    """Computes the loss and its gradient `(B, K, h, w)`, empty unless needed, one band of rows at a time."""
    batch, num_classes, height, width = logits.shape
    out_height, out_width = target.shape[1:]
    dtype, device = _accumulator(logits), logits.device
    columns = sort_into_runs(width, out_width, math.ceil(out_width / width), device, dtype)
    # Columns go in the order (l', n'), the first pixels of all runs first: long stretches of memory.
    pixel_column, real_column = columns.pixel.t().flatten(), columns.real.t().flatten()
    share_column = columns.share.t().contiguous()  # (l', n')
    row_bytes = num_classes * len(pixel_column) * dtype.itemsize
    length, runs_per_band = _band_shape(math.ceil(out_height / height), row_bytes, device)
    rows = sort_into_runs(height, out_height, length, device, dtype)
    class_weight = _class_weight(weight, logits)  # (K,)

    # Softmax does not mind the shift, and exp cannot overflow after it.
    cells = logits.to(dtype) - logits.amax(1, keepdim=True).to(dtype)
    # Where neighbours disagree wildly, all classes may underflow between them. Elsewhere than on the CPU that
    # is taken for granted, since a look would wait for the device.
    tame = device.type == "cpu" and bool(cells.amin() > 0.9 * math.log(torch.finfo(dtype).tiny))
    cells = cells.movedim(2, 1).flatten(0, 1)  # (B·h, K, w)
    sides = torch.stack((cells.index_select(-1, columns.lower), cells.index_select(-1, columns.upper)))
    del cells

    loss, total = torch.zeros(2, dtype=dtype, device=device)
    buffer = torch.empty(runs_per_band, length, num_classes, len(pixel_column), dtype=dtype, device=device)
    grad_sides = torch.zeros_like(sides) if needs_grad else None
    numbers = torch.arange(batch * len(rows.lower), device=device)  # all runs of all images
    for part in torch.split(numbers, runs_per_band):
        image, run = part // len(rows.lower), part % len(rows.lower)  # (n,)
        around = torch.cat((rows.lower[run] + height * image, rows.upper[run] + height * image))  # (2·n,)
        share = rows.share[run][..., None, None]  # (n, l, 1, 1)

        pixel_row = (rows.pixel[run] + out_height * image[:, None]).flatten()
        label = target.flatten(0, 1)[pixel_row].index_select(1, pixel_column).long()
        label = label.view(len(run), length, 1, -1)  # (n, l, 1, W)
        valid = (label != ignore_index) & rows.real[run][..., None, None] & real_column
        label = _known(label, valid, num_classes)
        # What the pixel's own class counts, and what all classes count, times their weights.
        hard = valid.to(dtype) if weight is None else class_weight[label] * valid
        total += hard.sum()
        hard *= 1 - smoothing
        even = valid.to(dtype) * (smoothing / num_classes)

        left, right = sides.index_select(1, around)[..., None, :]  # (2·n, K, 1, n')
        ends = interpolate(left, right, share_column).view(2, len(run), num_classes, -1)  # (2, n, K, W)
        band = interpolate(ends[0, :, None], ends[1, :, None], share, out=buffer[: len(run)])  # (n, l, K, W)
        picked = band.gather(2, label)
        log_mass, mass = _exp_(band, tame)
        mass_weight = hard + even * class_weight.sum()
        loss += (mass_weight * log_mass - hard * picked).sum()
        if smoothing:
            even = fold_(even, share, dim=1)  # (2, n, 1, W): linear in the logits, so done on their ends
            loss -= (even * (ends * class_weight[:, None]).sum(2, keepdim=True)).sum()

        if grad_sides is not None:
            band *= mass_weight / mass
            band.scatter_(2, label, (picked - log_mass).exp_() * mass_weight - hard)
            grad_ends = fold_(band, share, dim=1)  # (2, n, K, W)
            if smoothing:
                grad_ends -= even * class_weight[:, None]
            grad_ends = grad_ends.view(2 * len(run), num_classes, -1, len(columns.lower))  # (2·n, K, l', n')
            grad_sides.index_add_(1, around, fold_(grad_ends, share_column, dim=2))

    scale = _inverse(total)
    if grad_sides is None:
        return loss * scale, sides.new_empty(0)
    grad = torch.zeros(batch * height, num_classes, width, dtype=dtype, device=device)
    grad.index_add_(2, columns.lower, grad_sides[0]).index_add_(2, columns.upper, grad_sides[1])
    grad = (grad * scale).view(batch, height, num_classes, width)
    return loss * scale, grad.movedim(1, 2).contiguous()


@_chunked.register_fake
def _fake(logits: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    shape = logits.shape if options[-1] else (0,)  # needs_grad
    dtype = _accumulator(logits)
    return logits.new_empty((), dtype=dtype), logits.new_empty(shape, dtype=dtype)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    # Kept in float32 for half-precision logits: a gradient scaler multiplies before the cast, not after it.
    ctx.save_for_backward(output[1])
    ctx.dtype = inputs[0].dtype


def _backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled():  # as under create_graph=True; the stored gradient would pass for a constant
        raise ValueError('the chunked loss has no second derivative; choose backend="plain" for one')
    (grad,) = ctx.saved_tensors
    return (grad * grad_loss).to(ctx.dtype), None, None, None, None, None


_chunked.register_autograd(_backward, setup_context=_save)


def _band_shape(stride: int, row_bytes: int, device: torch.device) -> tuple[int, int]:
    """Chooses how many rows make a run, at most `stride`, and how many runs a band."""
    budget = BAND_BYTES_CPU if device.type == "cpu" else BAND_BYTES_DEVICE
    most = max(1, budget // row_bytes)
    length = math.ceil(stride / math.ceil(stride / most))  # cut evenly, so that few pixels are not real
    return length, max(1, most // length)


def _exp_(band: Tensor, tame: bool) -> tuple[Tensor, Tensor]:
    """Replaces logits `(n, l, K, W)` by their exponentials up to a factor.

    Args:
        band: The logits, at most 0.
        tame: Whether no exponential underflows, so that the pass over the maxima can be left out.

    Returns:
        The logarithm of the true sum over the classes, and the sum of what the band now holds.
    """
    if tame:
        mass = band.exp_().sum(2, keepdim=True)
        return mass.log(), mass
    peak = band.amax(2, keepdim=True)
    mass = band.sub_(peak).exp_().sum(2, keepdim=True)
    return mass.log() + peak, mass


def _accumulator(logits: Tensor) -> torch.dtype:
    return torch.promote_types(logits.dtype, torch.float32)


def _class_weight(weight: Tensor | None, logits: Tensor) -> Tensor:
    ones = torch.ones(logits.shape[1], dtype=_accumulator(logits), device=logits.device)
    return ones if weight is None else weight.detach().to(ones)


def _inverse(total: Tensor) -> Tensor:
    """Computes `1 / total`, or 0 where nothing counts."""
    return torch.where(total == 0, 0.0, 1 / total)


def _known(label: Tensor, valid: Tensor, num_classes: int) -> Tensor:
    """Puts class 0 where a label does not count and, on the CPU, refuses labels that are no class."""
    label = label.where(valid, 0)
    if label.device.type == "cpu":  # elsewhere the look would wait for the device, which asserts by itself
        for extreme in torch.stack(label.aminmax()).tolist():
            if not 0 <= extreme < num_classes:
                raise ValueError(
                    f"target: label {extreme} is neither one of the {num_classes} classes nor ignore_index; "
                    "set ignore_index to it or mend num_classes"
                )
    return label


def _choose(backend: Backend) -> str:
    """Resolves "auto"."""
    chosen = os.environ.get("SEGBENCH_KERNELS", "auto") if backend == "auto" else backend
    if chosen not in ("auto", "plain", "chunked"):
        source = "SEGBENCH_KERNELS" if backend == "auto" else "backend"
        raise ValueError(f"{source} is {chosen!r}; choose auto, plain or chunked")
    return "chunked" if chosen == "auto" else chosen


def _check_arguments(logits: Tensor, target: Tensor, weight: Tensor | None, smoothing: float) -> None:
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
    if not 0 <= smoothing <= 1:
        raise ValueError(f"label_smoothing must lie in [0, 1]; got {smoothing}")

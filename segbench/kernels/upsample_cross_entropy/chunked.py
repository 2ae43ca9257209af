"""Cross-entropy of upsampled logits by operations of torch, a band of rows at a time."""

import math

import torch
from torch import Tensor

from segbench.functional.labels import split_labels
from segbench.functional.pixel_runs import fold_, interpolate, sort_into_runs

# Upsampled logits in flight. CPU: they stay in cache. Elsewhere: so many that launches do not count.
BAND_BYTES_CPU = 8 << 20
BAND_BYTES_DEVICE = 128 << 20
FLOOR = -1e30  # logits of classes that were masked out: small, and differences stay finite


def loss_and_gradient(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    pixel_weight: Tensor | None,
    ignore_index: int,
    smoothing: float,
    clip: float | None,
    padded: tuple[int, int],
    needs_grad: bool,
    deterministic: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Computes sums and gradient; see `upsample_cross_entropy` for the arguments.

    Returns:
        The cost and the weight of all pixels, both scalars of at least float32, and the gradient `(B, K, h, w)`
        of the cost in the same type, or nothing.

    Raises:
        ValueError: If, on the CPU, a label is out of range.
    """
    batch, num_classes, height, width = logits.shape
    out_height, out_width = target.shape[1:]
    dtype, device = torch.promote_types(logits.dtype, torch.float32), logits.device
    columns = sort_into_runs(width, padded[1], out_width, math.ceil(padded[1] / width), device, dtype)
    # Columns go in the order (l', n'), the first pixels of all runs first: long stretches of memory.
    pixel_column, real_column = columns.pixel.t().flatten(), columns.real.t().flatten()
    share_column = columns.share.t().contiguous()  # (l', n')
    row_bytes = num_classes * len(pixel_column) * dtype.itemsize
    length, runs_per_band = _band_shape(math.ceil(padded[0] / height), row_bytes, device)
    rows = sort_into_runs(height, padded[0], out_height, length, device, dtype)
    class_weight = torch.ones(num_classes, dtype=dtype, device=device)
    if weight is not None:
        class_weight = weight.detach().to(class_weight)

    # Softmax does not mind the shift, and exp cannot overflow after it.
    cells = (logits.to(dtype) - logits.amax(1, keepdim=True).to(dtype)).clamp_(min=FLOOR)  # nan stays
    # Where neighbours disagree wildly, all classes may underflow between them. Elsewhere than on the CPU that
    # is taken for granted, since a look would wait for the device.
    tame = device.type == "cpu" and bool(cells.amin() > 0.9 * math.log(torch.finfo(dtype).tiny))
    cells = cells.movedim(2, 1).flatten(0, 1)  # (B·h, K, w)
    sides = torch.stack((cells.index_select(-1, columns.lower), cells.index_select(-1, columns.upper)))
    del cells

    loss, total = (torch.zeros((), dtype=dtype, device=device) for _ in range(2))
    buffer = torch.empty(runs_per_band, length, num_classes, len(pixel_column), dtype=dtype, device=device)
    grad_sides = torch.zeros_like(sides) if needs_grad else None
    numbers = torch.arange(batch * len(rows.lower), device=device)  # all runs of all images
    for part in torch.split(numbers, runs_per_band):
        image, run = part // len(rows.lower), part % len(rows.lower)  # (n,)
        around = torch.cat((rows.lower[run] + height * image, rows.upper[run] + height * image))  # (2·n,)
        share = rows.share[run][..., None, None]  # (n, l, 1, 1)

        pixel_row = (rows.pixel[run] + out_height * image[:, None]).flatten()

        def pixels(values: Tensor, pixel_row: Tensor = pixel_row, runs: int = len(run)) -> Tensor:
            chosen = values.flatten(0, 1).index_select(0, pixel_row).index_select(1, pixel_column)
            return chosen.view(runs, length, 1, -1)  # (n, l, 1, W)

        label, valid = split_labels(pixels(target), num_classes, ignore_index)
        even = (valid & rows.real[run][..., None, None] & real_column).to(dtype)
        if pixel_weight is not None:
            even *= pixels(pixel_weight)
        # What the pixel's own class counts, and what all classes count, times their weights.
        hard = even.clone() if weight is None else class_weight[label] * even
        total += _sum(hard)
        hard *= 1 - smoothing
        even *= smoothing / num_classes

        left, right = sides.index_select(1, around)[..., None, :]  # (2·n, K, 1, n')
        ends = interpolate(left, right, share_column).view(2, len(run), num_classes, -1)  # (2, n, K, W)
        band = interpolate(ends[0, :, None], ends[1, :, None], share, out=buffer[: len(run)])  # (n, l, K, W)
        picked = band.gather(2, label)
        log_mass, mass = _exp_(band, tame)
        if clip is not None:
            beyond = log_mass - picked >= clip
            loss += clip * _sum(hard * beyond)
            hard *= ~beyond
        mass_weight = hard + even * class_weight.sum()
        loss += _sum(mass_weight * log_mass - hard * picked)
        if smoothing:
            even = fold_(even, share, dim=1)  # (2, n, 1, W): linear in the logits, so done on their ends
            loss -= _sum(even * (ends * class_weight[:, None]).sum(2, keepdim=True))

        if grad_sides is not None:
            band *= mass_weight / mass
            band.scatter_(2, label, (picked - log_mass).exp_() * mass_weight - hard)
            grad_ends = fold_(band, share, dim=1)  # (2, n, K, W)
            if smoothing:
                grad_ends -= even * class_weight[:, None]
            grad_ends = grad_ends.view(2 * len(run), num_classes, -1, len(columns.lower))  # (2·n, K, l', n')
            _add_(grad_sides, 1, around, fold_(grad_ends, share_column, dim=2), deterministic)

    if grad_sides is None:
        return loss, total, sides.new_empty(0)
    grad = torch.zeros(batch * height, num_classes, width, dtype=dtype, device=device)
    for cell, grad_side in zip((columns.lower, columns.upper), grad_sides, strict=True):
        _add_(grad, 2, cell, grad_side, deterministic)
    return loss, total, grad.view(batch, height, num_classes, width).movedim(1, 2).contiguous()


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


def _sum(values: Tensor) -> Tensor:
    """Adds up pixels, row by row: torch cuts a sum over everything as it has threads."""
    return values.sum(-1).sum()


def _add_(to: Tensor, dim: int, index: Tensor, values: Tensor, ordered: bool) -> None:
    """Adds values where the index says, which is `index_add_`; in order if asked, on any device."""
    if ordered and to.device.type == "cuda":  # where index_add_ takes atomics, and this sorts
        to.movedim(dim, 0).index_put_((index,), values.movedim(dim, 0), accumulate=True)
    else:
        to.index_add_(dim, index, values)

"""Cross-entropy and its gradient from low-resolution logits on NVIDIA GPUs, in Triton (https://triton-lang.org).

Imported only where it is used, since Triton is not everywhere. The value and the options are those of
`segbench.kernels.upsample_cross_entropy`, which calls `loss_and_gradient`.

All pixels between the same two rows and two columns of cells mix the same four vectors of K logits. A program
takes one such run of rows and one of columns and keeps everything in registers: the vectors interpolated
along the columns, and two sums of gradients for each column, one of them weighted by the row. A line of
pixels then costs, per class, a multiply-add, one `exp2` and an addition for the loss and two multiply-adds
for the gradient; nothing is computed twice and nothing of full size is written. At the end the columns are
summed into four vectors of K gradients, one for each corner. Those go to a table of their own, which a second
kernel adds up in a fixed order (repeats are equal bit by bit), or by atomic additions into the gradient (no
table, the last bits vary).
The other way round, one program for each cell that recomputes all pixels around it, needs no table but four
times the exponentials, and these are what limits.

Cost, for P = B·H·W pixels: P·K exponentials and seven times as many other floating-point operations; the
labels are read once; logits and gradients of B·K·h·w cells are read, written and read again as float32, and
the ordered sum writes and reads 4·⌈stride / BLOCK_X⌉ times as many (`TABLE_BYTES`, or one image's, at a
time).
An SM of compute capability 9.0 does 16 exponentials per clock beside 128 other operations, which makes them
the limit. Compiled for it with K = 150 at stride 16, a warp's line of 8 pixels is 362 instructions, while its
38 exponentials keep the scheduler's special-function unit busy for 304 cycles; 2500 instructions come once
per program, that is, per 16 lines. A line where labels change within a column costs 195 more, and one where
cells disagree so wildly that all classes underflow between them 190.
Strides of 8 and more are what it is made for; smaller ones, down to shrinking, are right but write much per
pixel.

Checked under Triton's interpreter and compiled for compute capability 9.0. It has not run on a GPU yet: no
time was measured.
"""

# Kernels are typed by Triton, name their constants in capitals and append to tuples with + alone.
# mypy: disable-error-code="assignment, no-untyped-def, untyped-decorator"
# ruff: noqa: ANN001, ANN202, N803, RUF005

import math
from functools import lru_cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from segbench.functional.pixel_runs import sort_into_runs

LONGEST_RUN = 32  # rows that one program does at most; more than that are not worth the lost parallelism
MOST_PIECES = 40  # classes per thread: five numbers for each, in 255 registers
TABLE_BYTES = 256 << 20
FOLD_CELLS, FOLD_CLASSES = 32, 32

LN2 = tl.constexpr(math.log(2))
TINY = tl.constexpr(2.0**-90)  # below it the smallest probabilities that count would underflow
NOTHING = tl.constexpr(-1e30)  # a logit whose exponential is 0, and whose difference to itself is not nan


class _Axis(NamedTuple):
    """The pixels of one axis in runs between the same two cells, and which ends of runs lie at which cell.

    Attributes:
        runs: `(n, 4)` int32: lower cell, upper cell, first pixel, number of pixels.
        share: `(n, l)` float32 share of the upper cell in each pixel.
        ends: `(2n,)` int32: the ends of runs in the order of their cells; `2i` is the lower end of run `i`,
            `2i + 1` the upper.
        start: `(cells + 1,)` int32: where the ends of each cell begin in `ends`.
        most: The largest number of ends at one cell.
    """

    runs: Tensor
    share: Tensor
    ends: Tensor
    start: Tensor
    most: int


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
    """Computes the summed cost of all pixels, the summed weights, and the gradient of the former.

    A label that is neither a class nor `ignore_index` makes all three nan; a refusal would wait for the device.

    Args:
        logits: `(B, K, h, w)` float32, bfloat16 or float16, in any memory layout; channels last is read best.
        target: `(B, H, W)` integer classes.
        weight: `(K,)` factor of each class.
        pixel_weight: `(B, H, W)` factor of each pixel, not negative.
        ignore_index: The label of pixels that do not count.
        smoothing: Share of the target that is spread evenly over all classes.
        clip: The most that a pixel's −ln p may be; at and beyond it the gradient is 0. Not with smoothing.
        padded: `(H', W')` to which the logits are upsampled before they are cropped to `(H, W)`.
        needs_grad: Whether to compute the gradient.
        deterministic: Whether repeats must be equal bit by bit.

    Returns:
        Two float32 scalars, and the float32 gradient `(B, K, h, w)`, empty unless needed.

    Raises:
        ValueError: If the logits are float64, which would be computed in float32.
    """
    if logits.dtype == torch.float64:
        raise ValueError('logits are float64 and backend "triton" computes in float32; choose "chunked"')
    batch, num_classes, height, width = logits.shape
    out_height, out_width = target.shape[1:]
    block_x, block_k, sizes, num_warps = _tile(num_classes, math.ceil(padded[1] / width))
    longest = min(LONGEST_RUN, math.ceil(padded[0] / height))
    rows = _axis(height, padded[0], out_height, longest, logits.device)
    columns = _axis(width, padded[1], out_width, block_x, logits.device)
    num_rows, num_columns = len(rows.runs), len(columns.runs)

    # Classes side by side, in powers of two, so that the kernel needs no product per exponential.
    cells = logits.new_empty((batch, height, width, num_classes), dtype=torch.float32)
    torch.mul(logits.detach().permute(0, 2, 3, 1).float(), 1 / math.log(2), out=cells)
    cells.clamp_(min=-1e30)  # of masked classes: -inf times a share of 0 would be nan
    target = target.contiguous()
    if smoothing and weight is None:
        weight = cells.new_ones(num_classes)
    weight = None if weight is None else weight.detach().float().contiguous()
    pixel_weight = None if pixel_weight is None else pixel_weight.detach().float().contiguous()

    sums = cells.new_empty(2, batch, num_rows * num_columns)
    grad = cells.new_empty(logits.shape) if needs_grad else cells.new_empty(0)
    table_shape = (2 * num_rows, 2 * num_columns, num_classes)
    group = max(1, TABLE_BYTES // (4 * math.prod(table_shape))) if needs_grad and deterministic else batch
    with torch.cuda.device(logits.get_device()):
        for first in range(0, batch, group):
            images = slice(first, min(first + group, batch))
            count = images.stop - images.start
            parts = cells.new_empty(0)
            if needs_grad:
                parts = cells.new_empty(count, *table_shape) if deterministic else torch.zeros_like(cells)
            _run_kernel[(num_columns, num_rows, count)](
                cells[images],
                target[images],
                weight,
                None if pixel_weight is None else pixel_weight[images],
                sums[0, images],
                sums[1, images],
                parts,
                rows.runs,
                rows.share,
                columns.runs,
                columns.share,
                height,
                width,
                out_height,
                out_width,
                rows.share.shape[1],
                smoothing,
                0.0 if clip is None else clip / math.log(2),
                NUM_CLASSES=num_classes,
                IGNORE_INDEX=ignore_index,
                SMOOTH=smoothing > 0,
                CLIP=clip is not None,
                NEEDS_GRAD=needs_grad,
                ORDERED=deterministic,
                SIZES=sizes,
                BLOCK_K=block_k,
                BLOCK_X=block_x,
                num_warps=num_warps,
                enable_fp_fusion=True,
            )
            if needs_grad and deterministic:
                blocks = (triton.cdiv(width, FOLD_CELLS), triton.cdiv(num_classes, FOLD_CLASSES))
                _fold_kernel[(height * count, *blocks)](
                    parts,
                    grad[images],
                    rows.ends,
                    rows.start,
                    columns.ends,
                    columns.start,
                    height,
                    width,
                    2 * num_rows,
                    2 * num_columns,
                    columns.most,
                    NUM_CLASSES=num_classes,
                    BLOCK_CELLS=FOLD_CELLS,
                    BLOCK_K=FOLD_CLASSES,
                )
            elif needs_grad:
                grad.copy_(parts.permute(0, 3, 1, 2))
    loss, total = sums.flatten(1).sum(1)
    return loss, total, grad


@triton.jit
def _run_kernel(
    cells_ptr,  # (B, h, w, K) logits / ln 2
    target_ptr,  # (B, H, W)
    weight_ptr,  # (K,) or None
    pixel_weight_ptr,  # (B, H, W) or None
    loss_ptr,  # (B, n·n')
    total_ptr,  # (B, n·n')
    grad_ptr,  # ordered: (B, 2n, 2n', K), one line for each pair of ends; else (B, h, w, K)
    rows_ptr,  # (n, 4)
    row_share_ptr,  # (n, l)
    columns_ptr,  # (n', 4)
    column_share_ptr,  # (n', BLOCK_X)
    height,
    width,
    out_height,
    out_width,
    row_length,
    smoothing,
    clip,
    NUM_CLASSES: tl.constexpr,
    IGNORE_INDEX: tl.constexpr,
    SMOOTH: tl.constexpr,
    CLIP: tl.constexpr,
    NEEDS_GRAD: tl.constexpr,
    ORDERED: tl.constexpr,
    SIZES: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """Computes the costs of one run of rows times one run of columns, and the gradients of its four corners.

    Blocks are `(j, x, k)`: class `j · BLOCK_K + k` in pixel `x`, one block for each of `SIZES`. All logits are
    counted from the largest of their cell, which softmax does not mind.
    """
    column_run, row_run, image = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    top = tl.load(rows_ptr + 4 * row_run)
    bottom = tl.load(rows_ptr + 4 * row_run + 1)
    first_row = tl.load(rows_ptr + 4 * row_run + 2)
    num_lines = tl.load(rows_ptr + 4 * row_run + 3)
    left = tl.load(columns_ptr + 4 * column_run)
    right = tl.load(columns_ptr + 4 * column_run + 1)
    first_column = tl.load(columns_ptr + 4 * column_run + 2)
    num_pixels = tl.load(columns_ptr + 4 * column_run + 3)

    lane = tl.arange(0, BLOCK_X)
    real = lane < num_pixels
    across = tl.load(column_share_ptr + column_run * BLOCK_X + lane)  # (x,)
    upper_row, lower_row = image * height + top, image * height + bottom
    top_left = cells_ptr + (upper_row * width + left) * NUM_CLASSES
    top_right = cells_ptr + (upper_row * width + right) * NUM_CLASSES
    bottom_left = cells_ptr + (lower_row * width + left) * NUM_CLASSES
    bottom_right = cells_ptr + (lower_row * width + right) * NUM_CLASSES
    top_left_peak = _peak(top_left, NUM_CLASSES, SIZES, BLOCK_K)
    top_right_peak = _peak(top_right, NUM_CLASSES, SIZES, BLOCK_K)
    bottom_left_peak = _peak(bottom_left, NUM_CLASSES, SIZES, BLOCK_K)
    bottom_right_peak = _peak(bottom_right, NUM_CLASSES, SIZES, BLOCK_K)

    above, step, all_grad, low_grad = (), (), (), ()  # one block for each of SIZES
    even_above = tl.zeros((BLOCK_X,), tl.float32)  # Σ of weight · logit over the classes
    even_below = tl.zeros((BLOCK_X,), tl.float32)
    weight_sum = 0.0
    for i in tl.static_range(len(SIZES)):
        k = _classes(i, SIZES, BLOCK_X, BLOCK_K)
        known = k < NUM_CLASSES
        a = _mix(
            tl.load(top_left + k, known, NOTHING) - top_left_peak,
            tl.load(top_right + k, known, NOTHING) - top_right_peak,
            across[None, :, None],
        )
        b = _mix(
            tl.load(bottom_left + k, known, NOTHING) - bottom_left_peak,
            tl.load(bottom_right + k, known, NOTHING) - bottom_right_peak,
            across[None, :, None],
        )
        above, step = above + (a,), step + (b - a,)
        if NEEDS_GRAD:
            all_grad, low_grad = all_grad + (tl.zeros_like(a),), low_grad + (tl.zeros_like(a),)
        if SMOOTH:
            w = tl.load(weight_ptr + k, known, 0.0)
            weight_sum += tl.sum(w) / BLOCK_X  # the same in all pixels
            even_above += _over_classes(a * w)
            even_below += _over_classes(b * w)

    loss = tl.zeros((BLOCK_X,), tl.float32)
    total = tl.zeros((BLOCK_X,), tl.float32)
    all_even = tl.zeros((BLOCK_X,), tl.float32)
    low_even = tl.zeros((BLOCK_X,), tl.float32)
    # What each column owes to the class of its label is summed until the label changes: looking for it among
    # all classes at every pixel would cost half as much again as all the rest.
    own = tl.zeros((BLOCK_X,), tl.int32)
    all_own = tl.zeros((BLOCK_X,), tl.float32)
    low_own = tl.zeros((BLOCK_X,), tl.float32)
    for line in range(num_lines):
        down = tl.load(row_share_ptr + row_run * row_length + line)
        pixel = (image * out_height + first_row + line) * out_width + first_column + lane
        label = tl.load(target_ptr + pixel, real, 0).to(tl.int64)  # (x,)
        counts = real & (label != IGNORE_INDEX)
        is_class = (label >= 0) & (label < NUM_CLASSES)
        share = tl.where(counts, tl.where(is_class, 1.0, float("nan")), 0.0)
        label = tl.where(counts & is_class, label.to(tl.int32), own)
        if pixel_weight_ptr is not None:
            share *= tl.load(pixel_weight_ptr + pixel, real, 0.0)
        hard = share
        if weight_ptr is not None:
            hard *= tl.load(weight_ptr + label)
        total += hard

        exps = ()
        mass = tl.zeros((BLOCK_X, BLOCK_K), tl.float32)
        for i in tl.static_range(len(SIZES)):
            exps = exps + (tl.exp2(above[i] + down * step[i]),)
            mass += tl.sum(exps[i], 0)
        mass = tl.sum(mass, 1)  # (x,)
        peak = tl.zeros((BLOCK_X,), tl.float32)
        if tl.min(mass) < TINY:  # the cells disagree so wildly that all classes underflow between them
            peak += NOTHING
            for i in tl.static_range(len(SIZES)):
                peak = tl.maximum(peak, tl.max(tl.max(above[i] + down * step[i], 0), 1))
            exps = ()
            mass = tl.zeros((BLOCK_X,), tl.float32)
            for i in tl.static_range(len(SIZES)):
                exps = exps + (tl.exp2(above[i] + down * step[i] - peak[None, :, None]),)
                mass += _over_classes(exps[i])
        log_mass = peak + tl.log2(mass)

        own_above = _mix(
            tl.load(top_left + label) - top_left_peak, tl.load(top_right + label) - top_right_peak, across
        )
        own_below = _mix(
            tl.load(bottom_left + label) - bottom_left_peak,
            tl.load(bottom_right + label) - bottom_right_peak,
            across,
        )
        cost = log_mass - _mix(own_above, own_below, down)  # in bits
        if CLIP:
            loss += hard * tl.where(cost >= clip, clip, cost)  # unlike the minimum, nan stays nan
            hard = tl.where(cost < clip, hard, 0.0)
        else:
            hard *= 1 - smoothing
            loss += hard * cost
        scale = hard
        if SMOOTH:
            even = share * (smoothing / NUM_CLASSES)
            loss += even * (weight_sum * log_mass - _mix(even_above, even_below, down))
            all_even += even
            low_even += down * even
            scale += even * weight_sum
        if NEEDS_GRAD:
            changes = label != own
            if tl.max(changes.to(tl.int32)) > 0:
                all_grad = _take(all_grad, own, all_own, SIZES, BLOCK_K)
                low_grad = _take(low_grad, own, low_own, SIZES, BLOCK_K)
                all_own = tl.zeros((BLOCK_X,), tl.float32)
                low_own = tl.zeros((BLOCK_X,), tl.float32)
                own = label
            all_own += hard
            low_own += down * hard
            scale = scale / mass
            new_all, new_low = (), ()
            for i in tl.static_range(len(SIZES)):
                new_all = new_all + (all_grad[i] + exps[i] * scale[None, :, None],)
                new_low = new_low + (low_grad[i] + exps[i] * (down * scale)[None, :, None],)
            all_grad, low_grad = new_all, new_low

    slot = (image * tl.num_programs(1) + row_run) * tl.num_programs(0) + column_run
    tl.store(loss_ptr + slot, tl.sum(loss) * LN2)
    tl.store(total_ptr + slot, tl.sum(total))
    if NEEDS_GRAD:
        all_grad = _take(all_grad, own, all_own, SIZES, BLOCK_K)
        low_grad = _take(low_grad, own, low_own, SIZES, BLOCK_K)
        if ORDERED:
            line_size = 2 * tl.num_programs(0)
            upper_row = (image * tl.num_programs(1) + row_run) * 2 * line_size
            lower_row = upper_row + line_size
            left, right = 2 * column_run, 2 * column_run + 1
        else:
            upper_row, lower_row = upper_row * width, lower_row * width
        for i in tl.static_range(len(SIZES)):
            every, low = all_grad[i], low_grad[i]
            if SMOOTH:
                k = _classes(i, SIZES, BLOCK_X, BLOCK_K)
                w = tl.load(weight_ptr + k, k < NUM_CLASSES, 0.0)
                every -= all_even[None, :, None] * w
                low -= low_even[None, :, None] * w
            for side in tl.static_range(2):
                grad = low if side else every - low
                row = lower_row if side else upper_row
                to_right = tl.sum(grad * across[None, :, None], 1)  # (j, k)
                to_left = tl.sum(grad, 1) - to_right
                _put(grad_ptr, row + left, to_left, i, NUM_CLASSES, SIZES, BLOCK_K, ORDERED)
                _put(grad_ptr, row + right, to_right, i, NUM_CLASSES, SIZES, BLOCK_K, ORDERED)


@triton.constexpr_function
def _first(sizes, i):
    """Counts the pieces before block `i`."""
    return sum(sizes[:i])


@triton.jit
def _classes(i: tl.constexpr, SIZES: tl.constexpr, BLOCK_X: tl.constexpr, BLOCK_K: tl.constexpr):
    """Numbers the classes of block `i`: `(j, x, k)`."""
    j = tl.arange(0, SIZES[i])[:, None, None]
    k = (_first(SIZES, i) + j) * BLOCK_K + tl.arange(0, BLOCK_K)[None, None, :]
    return tl.broadcast_to(k, (SIZES[i], BLOCK_X, BLOCK_K))


@triton.jit
def _peak(cell_ptr, NUM_CLASSES: tl.constexpr, SIZES: tl.constexpr, BLOCK_K: tl.constexpr):
    """Finds the largest logit of a cell."""
    peak = NOTHING
    for i in tl.static_range(len(SIZES)):
        k = _classes(i, SIZES, 1, BLOCK_K)
        peak = tl.maximum(peak, tl.max(tl.load(cell_ptr + k, k < NUM_CLASSES, NOTHING)))
    return peak


@triton.jit
def _over_classes(block):
    """Sums `(j, x, k)` to `(x,)`."""
    return tl.sum(tl.sum(block, 0), 1)


@triton.jit
def _mix(lower, upper, share):
    return lower + share * (upper - lower)


@triton.jit
def _take(grads, label, amount, SIZES: tl.constexpr, BLOCK_K: tl.constexpr):
    """Subtracts from the gradients of each pixel an amount at its label."""
    rest = (label[:, None] - tl.arange(0, BLOCK_K)[None])[None]  # compared with constants below
    result = ()
    for i in tl.static_range(len(SIZES)):
        here = (_first(SIZES, i) + tl.arange(0, SIZES[i])[:, None, None]) * BLOCK_K == rest
        result = result + (grads[i] - tl.where(here, amount[None, :, None], 0.0),)
    return result


@triton.jit
def _put(
    grad_ptr,
    cell,
    values,
    i: tl.constexpr,
    NUM_CLASSES: tl.constexpr,
    SIZES: tl.constexpr,
    BLOCK_K: tl.constexpr,
    ORDERED: tl.constexpr,
):
    """Stores or adds the gradients `(j, k)` of the classes of block `i`."""
    k = (_first(SIZES, i) + tl.arange(0, SIZES[i])[:, None]) * BLOCK_K + tl.arange(0, BLOCK_K)[None]
    if ORDERED:
        tl.store(grad_ptr + cell * NUM_CLASSES + k, values, k < NUM_CLASSES)
    else:
        tl.atomic_add(grad_ptr + cell * NUM_CLASSES + k, values, k < NUM_CLASSES, sem="relaxed")


@triton.jit
def _fold_kernel(
    parts_ptr,  # (B, row ends, column ends, K)
    grad_ptr,  # (B, K, h, w)
    row_ends_ptr,
    row_start_ptr,
    column_ends_ptr,
    column_start_ptr,
    height,
    width,
    num_row_ends,
    num_column_ends,
    most,
    NUM_CLASSES: tl.constexpr,
    BLOCK_CELLS: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Adds up what all runs gave to some cells of one row, always in the same order."""
    row = tl.program_id(0) % height
    image = (tl.program_id(0) // height).to(tl.int64)
    column = tl.program_id(1) * BLOCK_CELLS + tl.arange(0, BLOCK_CELLS)
    k = tl.program_id(2) * BLOCK_K + tl.arange(0, BLOCK_K)
    inside = column < width
    start = tl.load(column_start_ptr + column, inside, 0)
    stop = tl.load(column_start_ptr + column + 1, inside, 0)
    grad = tl.zeros((BLOCK_CELLS, BLOCK_K), tl.float32)
    for i in range(tl.load(row_start_ptr + row), tl.load(row_start_ptr + row + 1)):
        line = image * num_row_ends + tl.load(row_ends_ptr + i)
        for j in range(most):
            there = start + j < stop
            end = line * num_column_ends + tl.load(column_ends_ptr + start + j, there, 0)
            mask = there[:, None] & (k < NUM_CLASSES)[None]
            grad += tl.load(parts_ptr + end[:, None] * NUM_CLASSES + k[None], mask, 0.0)
    cell = ((image * NUM_CLASSES + k[None]) * height + row) * width + column[:, None]
    tl.store(grad_ptr + cell, grad, inside[:, None] & (k < NUM_CLASSES)[None])


def _tile(num_classes: int, stride: int) -> tuple[int, int, tuple[int, ...], int]:
    """Chooses `(BLOCK_X, BLOCK_K, SIZES, warps)` of a program.

    The lanes of one warp hold `BLOCK_X` pixels times `BLOCK_K` classes and go over all K in pieces: sums
    over the classes of a pixel are then mostly within a lane, and nobody waits for other warps. Triton's
    blocks are powers of two, which alone would waste 106 of 256 places for K = 150; so the 38 pieces are
    blocks of 32, 4 and 2.
    """
    block_k = triton.next_power_of_2(math.ceil(num_classes / MOST_PIECES))
    block_x = min(triton.next_power_of_2(stride), max(1, 32 // block_k))
    block_k = max(block_k, 32 // block_x)  # no idle lanes
    pieces = math.ceil(num_classes / block_k)
    sizes = tuple(1 << bit for bit in reversed(range(pieces.bit_length())) if pieces >> bit & 1)
    return block_x, block_k, sizes, max(1, min(16, block_k // 32))


@lru_cache(maxsize=64)
def _axis(size: int, padded: int, out_size: int, length: int, device: torch.device) -> _Axis:
    """Describes an axis of `size` cells upsampled to `padded` pixels, of which the first `out_size` count."""
    cpu = torch.device("cpu")
    runs = sort_into_runs(size, padded, out_size, length, cpu, torch.float32)
    cell = torch.stack((runs.lower, runs.upper), 1).flatten()
    per_cell = torch.bincount(cell, minlength=size)
    start = torch.cat((per_cell.new_zeros(1), per_cell.cumsum(0)))
    table = torch.stack((runs.lower, runs.upper, runs.pixel[:, 0], runs.real.sum(1)), 1)
    ends = cell.argsort(stable=True)
    return _Axis(
        table.int().to(device),
        runs.share.contiguous().to(device),
        ends.int().to(device),
        start.int().to(device),
        int(per_cell.max()),
    )

"""Segments images of any size, in one piece or by overlapping windows, around any function image → prediction.

The procedure is Segmenter's (https://arxiv.org/abs/2105.05633, https://github.com/rstrudel/segmenter): the
logits of all windows are averaged and resized before the argmax. There each step is done at full size; here
all steps are one linear map for the rows and one for the columns, computed one tile at a time.
"""

from collections.abc import Callable, Iterator
from itertools import chain as concatenate
from itertools import islice, product
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from segbench.functional.separable_resampler import (
    SeparableResampler,
    bilinear_map,
    chain,
    reverse,
    tiles,
    windows_map,
)
from segbench.kernels.upsample_argmax import argmax_tiles, label_dtype


class WindowPrediction(NamedTuple):
    """What is predicted for a batch of windows.

    Attributes:
        logits: `(n, K, h, w)` at the decoder's own stride.
        size: `(height, width)` to which the logits are upsampled before they are cropped to the window; larger
            than the window where the encoder padded it to whole patches.
    """

    logits: Tensor
    size: tuple[int, int]


MOST_ENLARGED_PIXELS = 2**26  # 8192 × 8192: beyond that an image is so long and thin that it is a mistake

SmallImages = Literal["enlarge", "whole"]
"""What becomes of an image with a side below the window's: Segmenter enlarges it, MMSegmentation takes windows
that are cut to the image."""

Forward = Callable[[Tensor], WindowPrediction]
"""Takes `(n, 3, h, w)` RGB windows, uint8 or float on the same 0..255 scale."""


class Windows(NamedTuple):
    """How an image is cut up, and its labels are put together.

    Attributes:
        window: Side or `(height, width)` of the windows. None takes the image in one piece.
        stride: Distance of the windows, at most `window`, which is the default.
        resize: Limits `(long side, short side)` to which the image is resized first, aspect ratio kept.
        out_size: `(height, width)` of the labels; the image's own by default.
        windows_per_batch: Windows that the model sees at a time, also from different images.
        small_images: Whether an image smaller than a window is enlarged, or the window cut to the image.
        tile_bytes: Size of the pieces in which the result is computed; by default it suits the device.
    """

    window: int | tuple[int, int] | None = None
    stride: int | tuple[int, int] | None = None
    resize: tuple[int, int] | None = None
    out_size: tuple[int, int] | None = None
    windows_per_batch: int = 4
    small_images: SmallImages = "enlarge"
    tile_bytes: int | None = None


WHOLE = Windows()  # the image in one piece, at its own size


class TiledLogits(NamedTuple):
    """Everything known about one image, before any of it is upsampled.

    Attributes:
        cells: `(h, K, w)` low-resolution logits of all windows, side by side.
        rows: Map from `h` cells to the rows of the result.
        columns: Map from `w` cells to the columns of the result.
    """

    cells: Tensor
    rows: SeparableResampler
    columns: SeparableResampler


@torch.no_grad()  # labels have no gradient, and what led to one would be kept for every window
def segment(image: Tensor, forward: Forward, windows: Windows = WHOLE) -> Tensor:
    """Labels every pixel.

    Args:
        image: `(B, 3, H, W)` RGB, uint8 or float on the same 0..255 scale.
        forward: Predicts a batch of windows.
        windows: How the image is cut up.

    Returns:
        `(B, H, W)` labels, uint8 for up to 256 classes and int64 for more; the lowest of equal classes wins.

    Raises:
        ValueError: If an argument or what `forward` returned does not fit.
    """
    labels = image.new_empty(0)
    for index, mosaic in enumerate(mosaics(image, forward, windows)):
        if index == 0:
            size = (len(image), len(mosaic.rows.source), len(mosaic.columns.source))
            labels = mosaic.cells.new_empty(size, dtype=label_dtype(mosaic.cells.shape[1]))
        argmax_tiles(*mosaic, out=labels[index], tile_bytes=windows.tile_bytes)
    return labels


def logits(image: Tensor, forward: Forward, windows: Windows = WHOLE) -> Tensor:
    """Computes the logits whose argmax `segment` returns, at full size.

    This is large: 150 classes of one image of 2000 × 3000 pixels take 3.6 GB.

    Args:
        image: As in `segment`.
        forward: As in `segment`.
        windows: As in `segment`.

    Returns:
        `(B, K, H, W)`; float32, or float64 if `forward` returned that.

    Raises:
        ValueError: As in `segment`.
    """
    results = []
    for mosaic in mosaics(image, forward, windows):
        size = (mosaic.cells.shape[1], len(mosaic.rows.source), len(mosaic.columns.source))
        result = mosaic.cells.new_empty(size, dtype=torch.promote_types(mosaic.cells.dtype, torch.float32))
        for tile in tiles(*mosaic, windows.tile_bytes):
            result[:, tile.rows, tile.columns] = tile.values.transpose(0, 1)
        results.append(result)
    return torch.stack(results)


def mosaics(image: Tensor, forward: Forward, windows: Windows, flip: bool = False) -> Iterator[TiledLogits]:
    """Predicts all windows of all images and says how the result follows from them.

    Windows are not averaged cell by cell, although their grids may coincide: near its border each is continued
    by itself, so that the average would differ there. The maps hold the average of pixels, which is exact.

    Args:
        image: As in `segment`.
        forward: As in `segment`.
        windows: As in `segment`.
        flip: Show mirror images to `forward`; the results are mirrored back.

    Yields:
        One mosaic for each image, as soon as its last window is predicted.

    Raises:
        ValueError: As in `segment`.
    """
    if image.dim() != 4 or image.shape[1] != 3 or image.numel() == 0:
        raise ValueError(f"image must be a batch (B, 3, H, W), got {tuple(image.shape)}")
    check_windows(windows)
    out_size = windows.out_size or _size(image)
    if min(out_size) < 1:
        raise ValueError(f"out_size must be positive, got {out_size}")
    size = _size(image) if windows.resize is None else fit_size(_size(image), windows.resize)
    if size != _size(image):
        image = resize_image(image, size)
    if flip:
        image = image.flip(3)
    window, stride = _window_and_stride(windows, size)
    size = enlarge_size(_size(image), window)
    if size != _size(image) and size[0] * size[1] > MOST_ENLARGED_PIXELS:
        raise ValueError(
            f"an image of {_size(image)} would have to be enlarged to {size} for windows of {window}; "
            "give a smaller window"
        )
    if size != _size(image):
        image = resize_image(image, size, rounded=False)
    tops, lefts = anchors(size[0], window[0], stride[0]), anchors(size[1], window[1], stride[1])

    predictions = _predict(image, forward, tops, lefts, window, windows.windows_per_batch)
    first = next(predictions)  # shows the grid, which is that of all windows
    classes, height, width = first[0].shape
    rows, columns = (
        windows_map(tops, window[0], height, first[1][0]),
        windows_map(lefts, window[1], width, first[1][1]),
    )
    rows, columns = (
        chain(rows, bilinear_map(size[0], out_size[0])),
        chain(columns, bilinear_map(size[1], out_size[1])),
    )
    columns = reverse(columns) if flip else columns
    predictions = concatenate([first], predictions)
    for _ in range(len(image)):
        cells = first[0].new_empty(len(tops) * height, classes, len(lefts) * width)
        for top, left in product(range(0, len(cells), height), range(0, cells.shape[2], width)):
            logits, _ = next(predictions)
            cells[top : top + height, :, left : left + width] = logits.transpose(0, 1)
        yield TiledLogits(cells, rows, columns)


def check_windows(windows: Windows) -> None:
    """Refuses windows that no image can be cut into, before one is at hand.

    Args:
        windows: As in `segment`.

    Raises:
        ValueError: If a number is not positive, or window and stride do not fit each other.
    """
    _window_and_stride(windows, (1, 1))
    if windows.resize is not None:
        fit_size((1, 1), windows.resize)
    if windows.windows_per_batch < 1:
        raise ValueError(f"windows_per_batch must be at least 1, got {windows.windows_per_batch}")


def _window_and_stride(windows: Windows, size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Fills in what was left out, for an image of `size`."""
    if windows.window is None:
        if windows.stride is not None:
            raise ValueError(f"stride={windows.stride} needs a window; give window=… as well, or no stride")
        return size, size
    window = _pair("window", windows.window)
    stride = window if windows.stride is None else _pair("stride", windows.stride)
    if stride[0] > window[0] or stride[1] > window[1]:
        raise ValueError(f"stride {stride} exceeds window {window}: pixels between windows would get no label")
    if windows.small_images == "whole":
        window = (min(window[0], size[0]), min(window[1], size[1]))
    return window, stride


def _predict(
    image: Tensor, forward: Forward, tops: list[int], lefts: list[int], window: tuple[int, int], batch: int
) -> Iterator[tuple[Tensor, tuple[int, int]]]:
    """Yields logits `(K, h, w)` and padded size of every window, image by image, row by row."""
    places = product(range(len(image)), tops, lefts)
    while some := list(islice(places, batch)):
        crops = torch.stack([image[b, :, y : y + window[0], x : x + window[1]] for b, y, x in some])
        prediction = forward(crops)
        if prediction.logits.dim() != 4 or len(prediction.logits) != len(some):
            shape = tuple(prediction.logits.shape)
            raise ValueError(
                f"forward got {len(some)} windows; it must return logits ({len(some)}, K, h, w), not {shape}"
            )
        if prediction.size[0] < window[0] or prediction.size[1] < window[1]:
            raise ValueError(
                f"forward returned size {prediction.size}, which must not be below the window {window}"
            )
        for one in prediction.logits:
            yield one, prediction.size


def anchors(length: int, window: int, stride: int) -> list[int]:
    """Places windows along one axis: every `stride` pixels, and one that ends with the axis.

    Args:
        length: Pixels of the axis.
        window: Pixels of a window, at most `length`.
        stride: Distance of the windows.

    Returns:
        The first pixel of each window.

    Raises:
        ValueError: If the window does not fit.
    """
    if not 0 < window <= length or stride < 1:
        raise ValueError(
            f"window {window} and stride {stride} must be positive and the window at most {length}"
        )
    return [*range(0, length - window, stride), length - window]


def fit_size(size: tuple[int, int], limits: tuple[int, int]) -> tuple[int, int]:
    """Computes the largest size of the same aspect ratio within two limits, as MMSegmentation's `Resize` does.

    Args:
        size: `(height, width)`.
        limits: Of the long and the short side, in any order.

    Returns:
        `(height, width)`, rounded to whole pixels.

    Raises:
        ValueError: If a limit is not positive.
    """
    if min(limits) < 1:
        raise ValueError(f"resize must be two positive limits (long side, short side), got {limits}")
    factor = min(max(limits) / max(size), min(limits) / min(size))
    return max(1, int(size[0] * factor + 0.5)), max(1, int(size[1] * factor + 0.5))


def enlarge_size(size: tuple[int, int], window: tuple[int, int]) -> tuple[int, int]:
    """Computes the smallest size of the same aspect ratio that holds a window.

    Args:
        size: `(height, width)`.
        window: `(height, width)`.

    Returns:
        `size` itself where the window fits; otherwise the side that is scarcer becomes as long as the window.
    """
    (height, width), (tall, wide) = size, window
    if height >= tall and width >= wide:
        return size
    if tall * width >= wide * height:
        return tall, max(wide, int(width / height * tall))  # truncated, as in Segmenter
    return max(tall, int(height / width * wide)), wide


def resize_image(image: Tensor, size: tuple[int, int], *, rounded: bool = True) -> Tensor:
    """Resizes bilinearly without antialiasing, as OpenCV does.

    Args:
        image: `(B, 3, H, W)`.
        size: `(height, width)`.
        rounded: Whether uint8 stays uint8; every other type becomes float32 anyhow.

    Returns:
        `(B, 3, *size)`.
    """
    whole = rounded and image.dtype == torch.uint8
    planes = []
    for plane in torch.split(image, 1, dim=1):  # one at a time: an image in float32 is four times as large
        resized = F.interpolate(plane.float(), size, mode="bilinear", align_corners=False)
        planes.append(resized.round_().to(torch.uint8) if whole else resized)
    return torch.cat(planes, 1)


def _pair(name: str, value: int | tuple[int, int]) -> tuple[int, int]:
    """Reads one number or two, all positive."""
    pair = (value, value) if isinstance(value, int) else value
    if len(pair) != 2 or min(pair) < 1:
        raise ValueError(f"{name} must be one or two positive numbers of pixels, got {value}")
    return pair


def _size(image: Tensor) -> tuple[int, int]:
    """Returns height and width."""
    return image.shape[-2], image.shape[-1]

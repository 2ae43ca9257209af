"""Reads images ahead of the model, and puts those of one size together."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segbench.data.io.files import read_image
from segbench.utils.errors import one_line

MOST_WAITING = 2**26  # pixels that wait for others of their size: 200 MB


class LoadedImage(NamedTuple):
    """An image that was read, or why it was not.

    Attributes:
        path: The file.
        image: `(H, W, 3)` RGB, turned as its EXIF tag says.
        problem: One line, where there is no image.
    """

    path: Path
    image: NDArray[np.uint8] | None
    problem: str = ""


def read_ahead(paths: Sequence[Path], workers: int) -> Iterator[LoadedImage]:
    """Reads images while others are labelled.

    Args:
        paths: Files.
        workers: How many are read at the same time, and so held.

    Yields:
        The images in their order.
    """
    with ThreadPoolExecutor(workers) as pool:
        rest = iter(paths)
        waiting = deque(pool.submit(_read, path) for path in islice(rest, workers))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(pool.submit(_read, path) for path in islice(rest, 1))


def batches(loaded: Iterable[LoadedImage], size: int) -> Iterator[list[LoadedImage]]:
    """Puts images of equal height and width together.

    Args:
        loaded: All of them with an image.
        size: Most to a batch.

    Yields:
        Batches, full ones as soon as they are; large images do not wait for others.
    """
    waiting: dict[tuple[int, ...], list[LoadedImage]] = {}
    pixels = 0
    for item in loaded:
        assert item.image is not None  # noqa: S101 (for the type checker)
        shape = item.image.shape
        area = shape[0] * shape[1]
        waiting.setdefault(shape, []).append(item)
        pixels += area
        if len(waiting[shape]) >= size:
            batch = waiting.pop(shape)
            pixels -= area * len(batch)
            yield batch
        while pixels > MOST_WAITING or len(waiting) > 2 * size:
            oldest = next(iter(waiting))
            batch = waiting.pop(oldest)
            pixels -= oldest[0] * oldest[1] * len(batch)
            yield batch
    yield from waiting.values()


def _read(path: Path) -> LoadedImage:
    try:
        if not path.is_file():  # a pipe would be waited for without end
            raise ValueError(f"{path} is not a file, or leads to none")
        return LoadedImage(path, read_image(path))
    except (OSError, ValueError, MemoryError, RuntimeError) as error:
        problem = one_line(error, "segment")
        if problem is None:
            raise
        return LoadedImage(path, None, problem if str(path) in problem else f"{path}: {problem}")

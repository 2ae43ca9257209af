"""The C kernels of SEGMENT and DUST_FILL (`segbench.postprocess`); their source is `regions.c`."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segbench.kernels import native


class Filled(NamedTuple):
    """Regions that cover the image.

    Attributes:
        masks: `(H, W)` int32: the region that a pixel was in or joined; `M + k`, of `M` regions, where it was
            promoted to class `k` or joined those that were.
        labels: `(H, W)` the class of each pixel's mask.
    """

    masks: NDArray[np.int32]
    labels: NDArray[np.int64]


def label_regions_native(walls: NDArray[np.bool_], min_size: int) -> NDArray[np.int32]:
    """Labels regions in C; arguments, result and errors as in `segbench.postprocess.segment.segment`.

    Raises:
        MemoryError: If the kernel cannot allocate its queue.
    """
    ids = np.empty(walls.shape, np.int32)
    height, width = walls.shape
    count = native.library().label_regions(
        native.pointer(walls),
        *map(native.integer, (height, width, min_size)),
        native.pointer(ids),
    )
    if count < 0:
        raise MemoryError(f"no memory for the regions of {width}x{height} pixels")
    return ids


def dust_fill_native(
    probabilities: NDArray[np.float32],
    regions: NDArray[np.int32],
    promote: NDArray[np.float64],
    join: float,
    impatience: float,
) -> tuple[int, Filled]:
    """Runs DUST_FILL in C; arguments as `segbench.postprocess.dust_fill.fill` has checked them.

    Returns:
        The kernel's status (0 on success) and the filled maps.
    """
    labels = np.empty(regions.shape, np.int64)
    mapping = np.empty(regions.shape, np.int32)
    status = native.library().dust_fill(
        native.pointer(probabilities),
        *map(native.integer, probabilities.shape),
        native.pointer(regions),
        native.integer(regions.max() + 1),
        native.pointer(promote),
        native.real(join),
        native.real(impatience),
        native.pointer(mapping),
        native.pointer(labels),
    )
    return status, Filled(mapping, labels)

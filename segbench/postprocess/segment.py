"""SEGMENT with FLOOD: regions that only walls at least two pixels thick keep apart.

Source: the attention U-Net article, algorithms FLOOD and SEGMENT. A flood crosses from a cell into a boundary
pixel and from there into cells, but never from boundary to boundary. Its regions are therefore the connected
components of the 4-neighbour grid without edges between two boundary pixels, whatever the order of flooding.
The article's pseudo-code forgets to write its mask.
"""

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from segbench.kernels import native
from segbench.kernels.backends import choose_backend
from segbench.kernels.regions import label_regions_native


def segment(
    boundary: NDArray[np.bool_] | NDArray[np.integer],
    min_size: int = 11,
    *,
    backend: Literal["auto", "plain", "native"] = "auto",
) -> NDArray[np.int32]:
    """Divides an image into regions.

    Args:
        boundary: `(H, W)`, not 0 on boundary pixels.
        min_size: Pixels that a region needs, its boundary pixels included.
        backend: `native` is C, `plain` needs no compiler.

    Returns:
        `(H, W)` ids from 0, in raster order of the regions' first pixels; −1 where the region is too small.

    Raises:
        ValueError: If the shape is not `(H, W)` or `min_size` is below 1.
    """
    if boundary.ndim != 2 or min_size < 1:
        raise ValueError(f"boundary must be (H, W), got {boundary.shape}; min_size at least 1, got {min_size}")
    walls = np.ascontiguousarray(boundary, dtype=bool)
    if walls.size == 0:
        return np.empty(walls.shape, np.int32)
    offered = ["native", "plain"] if native.available() else ["plain"]
    divide = {"native": label_regions_native, "plain": _opencv}[choose_backend(backend, offered)]
    return divide(walls, min_size)


def _opencv(walls: NDArray[np.bool_], min_size: int) -> NDArray[np.int32]:
    """Does the same without a compiler: components of cells, joined by the boundary pixels beside them."""
    cells = cv2.connectedComponents((~walls).astype(np.uint8), connectivity=4, ltype=cv2.CV_32S)[1]
    node = np.where(walls, np.arange(walls.size).reshape(walls.shape) + cells.max() + 1, cells)
    crossed = [
        (node[:, :-1], node[:, 1:], walls[:, :-1] != walls[:, 1:]),
        (node[:-1], node[1:], walls[:-1] != walls[1:]),
    ]
    one = np.concatenate([a[between] for a, _, between in crossed])
    other = np.concatenate([b[between] for _, b, between in crossed])
    root = np.arange(node.max() + 1)
    while True:  # the smallest number of each component spreads, twice as far each time
        before = root.copy()
        smallest = np.minimum(root[one], root[other])
        np.minimum.at(root, root[one], smallest)
        np.minimum.at(root, root[other], smallest)
        root = root[root]
        if np.array_equal(root, before):
            break
    _, first, place, size = np.unique(root[node], return_index=True, return_inverse=True, return_counts=True)
    kept = np.flatnonzero(size >= min_size)
    number = np.full(len(size), -1, np.int32)
    number[kept[np.argsort(first[kept])]] = np.arange(len(kept))
    return np.asarray(number[place].reshape(walls.shape), np.int32)

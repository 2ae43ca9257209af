"""The two-cell-thick boundary between labels: both sides of every change are marked.

Code: https://github.com/dmitri-chouchkov/fashion-segmentation, where every label is known and one pixel is
cropped from each side of the image. Here the same follows from what is not known: a pixel at the frame of the
image or beside an ignored one has a neighbour nobody knows, and so has no target.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def boundary_target(label: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Marks the pixels whose label differs from that of any of their four neighbours.

    Args:
        label: `(B, H, W)` integer classes.
        ignore_index: The label of pixels that are not known.

    Returns:
        Two `(B, H, W)` bool maps: what is boundary, and where that is defined, which is where a pixel and its
        four neighbours are all known. Nothing is boundary where it is not defined.
    """
    label = label.to(torch.promote_types(label.dtype, torch.int16))  # room for an ignore_index of any sign
    padded = F.pad(label, (1, 1, 1, 1), value=ignore_index)
    centre = padded[:, 1:-1, 1:-1]
    neighbours = (padded[:, :-2, 1:-1], padded[:, 2:, 1:-1], padded[:, 1:-1, :-2], padded[:, 1:-1, 2:])
    boundary, defined = torch.zeros_like(centre, dtype=torch.bool), centre != ignore_index
    for neighbour in neighbours:
        boundary = boundary | (neighbour != centre)
        defined = defined & (neighbour != ignore_index)
    return boundary & defined, defined

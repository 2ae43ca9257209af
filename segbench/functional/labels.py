"""What takes part: labelled pixels, and the share of them in each cell."""

import torch.nn.functional as F
from torch import Tensor


def split_labels(label: Tensor, num_classes: int, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Tells labelled pixels from ignored ones.

    Args:
        label: `(...)` integer classes.
        num_classes: `K`.
        ignore_index: The label of pixels that do not count.

    Returns:
        Labels as int64 with class 0 where ignored, and whether each counts.

    Raises:
        ValueError: If, on the CPU, a label is out of range.
    """
    known = label.long()  # before the comparison: -100 would be 156 in uint8
    valid = known != ignore_index
    known = known.where(valid, 0)
    if known.device.type == "cpu" and known.numel():  # elsewhere the look would wait for the device
        for extreme in (int(known.min()), int(known.max())):
            if not 0 <= extreme < num_classes:
                raise ValueError(
                    f"label {extreme} is neither one of the {num_classes} classes nor ignore_index; "
                    "set ignore_index to it or correct num_classes"
                )
    return known, valid


def valid_share(label: Tensor, ignore_index: int, grid: tuple[int, int]) -> Tensor:
    """Computes which share of the pixels of each cell is labelled.

    Args:
        label: `(B, H, W)` integer classes.
        ignore_index: The label of pixels that do not count.
        grid: `(h, w)` cells that cover the label evenly.

    Returns:
        `(B, h, w)` float32 in [0, 1].
    """
    return F.adaptive_avg_pool2d((label != ignore_index).float(), grid)

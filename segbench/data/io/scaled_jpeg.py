"""JPEGs decoded at a half, a quarter or an eighth of their size, where no more pixels are needed.

`reduced_decode` of the data modules asks for it, in training alone and under the standard augmentation: the
largest divisor is taken that leaves the window as many pixels as are made of it. Whole images of evaluation are
read in full, as are those for a list of `train_transforms`. Draw and label do not change.

Pixels do: libjpeg takes the mean of those that it joins, whereas bilinear scaling of the full image passes over
most. Against the latter, in grey levels, over 63, 45 and 9 draws of three images of Cityscapes that were
saved as JPEGs of quality 90 (the 99th percentile is a mean over draws):

==========================  =====  ===============  =======
Cityscapes, 2048×1024       mean   99th percentile  largest
==========================  =====  ===============  =======
a half                      1.4    12               93
a quarter                   2.6    21               129
an eighth                   1.6    18               143
==========================  =====  ===============  =======

Ten images of CamVid, 480×360 and sharper, differ by 3.1, 4.6 and 2.8 on average, 184 at most. To
the mean over all pixels that a result stands for, reduced halves of Cityscapes are nearer (0.7 grey levels from
it, bilinear ones 1.1), quarters as near (1.6), eighths farther (1.4 and 0.4): a window begins at a whole pixel,
half a pixel of the result beside its place at most.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segbench.data.io.decoding import decode_image, jpeg_size

REDUCTIONS = (8, 4, 2)  # what libjpeg divides sizes by, the largest first


def read_reduced_image(path: Path, size: tuple[int, int], reduction: int) -> tuple[NDArray[np.uint8], int]:
    """Reads an image at a fraction of its size, turned as its EXIF tag says.

    Files that are not JPEGs, and those of another size than expected, are read in full.

    Args:
        path: The file.
        size: Height and width that the image should have in full.
        reduction: 1, or one of `REDUCTIONS`.

    Returns:
        `(h, w, 3)` uint8 RGB, and by how much it was reduced.

    Raises:
        ValueError: If the file is damaged or no picture.
    """
    data = path.read_bytes()
    done = reduction if reduction > 1 and sorted(jpeg_size(data)) == sorted(size) else 1
    return decode_image(path, data, done), done


def reduced_size(size: Sequence[int], reduction: int) -> tuple[int, int]:
    """Computes the height and width of an image that was read at a fraction of its size."""
    return -(-size[0] // reduction), -(-size[1] // reduction)

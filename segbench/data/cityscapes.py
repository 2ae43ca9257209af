"""Cityscapes in its official layout: 19 classes, 2,975, 500 and 1,525 images of 2048×1024.

Source: https://www.cityscapes-dataset.com, https://github.com/mcordts/cityscapesScripts. Labels are read from
the published `labelIds`. The `labelTrainIds` that other packages want are read too, and turned back, so that
label ids are all that the rest of the code sees.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from segbench.data.base import SegmentationDataModule
from segbench.data.cityscapes_classes import CITYSCAPES_SPEC, paint_label_ids
from segbench.data.folder_layout import FolderLayout
from segbench.data.io.files import write_image
from segbench.data.spec import DatasetSpec, Layout, Pair, Split
from segbench.data.transforms import Transform

LabelFiles = Literal["labelIds", "labelTrainIds"]

_TRAINING_IDS = DatasetSpec(CITYSCAPES_SPEC.classes, CITYSCAPES_SPEC.palette)
_CITIES: dict[Split, str] = {"train": "aachen", "val": "frankfurt", "test": "frankfurt", "predict": "berlin"}


@dataclass(frozen=True)
class CityscapesLayout(Layout):
    """`leftImg8bit/{split}/CITY/NAME_leftImg8bit.png` and `gtFine/{split}/CITY/NAME_gtFine_labelIds.png`.

    Names go without the city's folder, which they begin with: the benchmark server knows images by them.

    Attributes:
        labels: Which of the label files.
    """

    labels: LabelFiles = "labelIds"

    def pairs(self, root: Path, split: Split) -> list[Pair]:
        """Finds the pairs of a split in all cities."""
        found = [pair._replace(name=Path(pair.name).name) for pair in self._files().pairs(root, split)]
        return sorted(found, key=lambda pair: pair.name)

    def place(self, root: Path, split: Split, index: int) -> Pair:
        """Says where a new pair belongs."""
        city = _CITIES[split]
        pair = self._files(f"{city}/{city}_{index:06d}_000019").place(root, split, index)
        return pair._replace(name=Path(pair.name).name)

    def tree(self, root: Path) -> str:
        """Describes the expected files."""
        return self._files().tree(root)

    def read_ids(self, pair: Pair) -> NDArray[np.integer] | None:
        """Opens a mask; its ids are label ids, whatever the file has."""
        mask = super().read_ids(pair)
        if mask is None or self.labels == "labelIds":
            return mask
        try:
            return CITYSCAPES_SPEC.encode(_TRAINING_IDS.decode(mask))
        except ValueError:
            raise ValueError(
                f"{pair.label} holds other ids than 0 to 18 and 255: give --data.init_args.labels labelIds, or"
                " write the files again"
            ) from None

    def write(self, pair: Pair, image: NDArray[np.uint8], mask: NDArray[np.integer]) -> None:
        """Writes image, label and coloured label."""
        write_image(pair.image, image)
        if pair.label is not None:
            write_image(pair.label, mask if self.labels == "labelIds" else CITYSCAPES_SPEC.decode(mask))
            write_image(pair.label.with_name(f"{pair.name}_gtFine_color.png"), paint_label_ids(mask))

    def _files(self, new_name: str = "") -> FolderLayout:
        return FolderLayout(
            images=("leftImg8bit/{split}",),
            masks=("gtFine/{split}",),
            splits={"test": "val", "predict": "test"},  # labels of the official test images are not published
            image_suffix="_leftImg8bit",
            mask_suffix=f"_gtFine_{self.labels}",
            source="get leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip from https://www.cityscapes-dataset"
            ".com, or try --config experiments/data/synthetic.yaml, which needs no data",
            new_name=new_name,
            image_type=".png",
        )


class Cityscapes(SegmentationDataModule):
    """Cityscapes; `root` holds leftImg8bit and gtFine. `test` means validation, `predict` the test images."""

    spec = CITYSCAPES_SPEC
    layout = CityscapesLayout()

    def __init__(
        self,
        root: str | Path,
        img_size: tuple[int, int] = (768, 768),
        batch_size: int = 8,
        num_workers: int | None = None,
        eval_batch_size: int = 1,
        seed: int | None = None,
        scale: tuple[int, int] | None = None,
        train_transforms: list[Transform] | None = None,
        remap: dict[int, int] | None = None,
        augment: bool = True,
        labels: LabelFiles = "labelIds",
        exclude: list[str] | None = None,
        cache: bool = False,
        reduced_decode: bool = False,
    ) -> None:
        """Sets up the module; no image is looked for yet.

        Args:
            root: Folder of the dataset.
            img_size: Height and width of training crops.
            batch_size: Training images on each device.
            num_workers: Loading processes on each device; by default as many as there are free processors.
            eval_batch_size: Images in a batch of evaluation; all have one size.
            seed: Decides order and augmentation of training images; null takes `seed_everything`, in Python 0.
            scale: (long, short) limits that images are fitted into before they are scaled at random.
            train_transforms: Albumentations transforms in place of the standard ones.
            remap: Training ids for Cityscapes' label ids, on top of the official 19 classes.
            augment: Change training images at random; false only crops and pads them to `img_size`.
            labels: Which files: the published ones, or those of cityscapesScripts' createTrainIdLabelImgs.
            exclude: Images to leave out of all splits, as paths below the root.
            cache: Keep decoded files in the cache folder and map them into memory: faster from the second pass
                on, where the set fits into memory or lies on a fast disk.
            reduced_decode: Decode training JPEGs at a half, a quarter or an eighth of their size where a draw
                shrinks them at least as much.
        """
        self.layout = CityscapesLayout(labels)
        super().__init__(
            root,
            img_size=img_size,
            batch_size=batch_size,
            num_workers=num_workers,
            eval_batch_size=eval_batch_size,
            seed=seed,
            scale=scale,
            train_transforms=train_transforms,
            remap=remap,
            augment=augment,
            exclude=exclude,
            cache=cache,
            reduced_decode=reduced_decode,
        )

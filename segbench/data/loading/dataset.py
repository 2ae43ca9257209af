"""A map-style dataset of images and label maps, and how its items become a batch."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from segbench.data.augment import Augmentation
from segbench.data.io.files import read_image
from segbench.data.io.scaled_jpeg import read_reduced_image, reduced_size
from segbench.data.loading.sampling import SampleIndex
from segbench.data.spec import DatasetSpec, Pair
from segbench.types import Batch


class Sample(NamedTuple):
    """An image as it lies on disk.

    Attributes:
        name: Unique within the split.
        image: `(H, W, 3)` uint8 RGB.
        label: `(H, W)` training ids.
    """

    name: str
    image: NDArray[np.uint8]
    label: NDArray[np.integer]


class Item(NamedTuple):
    """An image ready for a batch.

    Attributes:
        image: `(3, H, W)` uint8.
        label: `(H, W)` uint8 or int64.
        name: Unique within the split.
        maps: `L` maps `(C_l, h_l, w_l)` of a frozen encoder, fp16, where they come from a cache.
    """

    image: Tensor
    label: Tensor
    name: str
    maps: tuple[Tensor, ...] = ()


class SegmentationDataset(Dataset[Item]):
    """Images and labels of one split. Untouched unless `augment` is given.

    Attributes:
        cached: Answers draws in place of the files, once the feature cache is filled.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        spec: DatasetSpec,
        read_files: Callable[[Pair], tuple[NDArray[np.uint8], NDArray[np.integer] | None]],
        augment: Augmentation | None = None,
        read_ids: Callable[[Pair], NDArray[np.integer] | None] | None = None,
    ) -> None:
        """Keeps the list.

        Args:
            pairs: The files.
            spec: Classes, and what ids mean.
            read_files: Opens a pair.
            augment: What training sees; `None` leaves images as they are.
            read_ids: Opens a mask alone, and lets images be read smaller where `augment` shrinks them.
        """
        self.pairs = list(pairs)
        self.spec = spec
        self.read_files = read_files
        self.augment = augment
        self.read_ids = read_ids
        self.cached: Callable[[SampleIndex], Item] | None = None

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, index: int) -> Sample:
        """Reads an image and its label, before augmentation.

        Args:
            index: Place in the list of pairs.

        Returns:
            The sample; its label is `ignore_index` throughout where there is no label file.

        Raises:
            ValueError: If a file is damaged, sizes differ, or a label is out of range.
        """
        pair = self.pairs[index]
        image, mask = self.read_files(pair)
        if mask is None:
            return Sample(pair.name, image, np.full(image.shape[:2], self.spec.ignore_index, self.spec.dtype))
        if mask.shape != image.shape[:2]:
            raise ValueError(_complain_of_size(pair, image.shape, mask.shape))
        return Sample(pair.name, image, self._decode(pair, mask))

    def __getitem__(self, key: int | SampleIndex) -> Item:
        index, number, _ = key if isinstance(key, SampleIndex) else SampleIndex(key, key)
        if self.cached is not None and isinstance(key, SampleIndex):
            return self.cached(key)
        if self.augment is not None and self.read_ids is not None:
            return self._reduced(self.augment, self.read_ids, index, number)
        name, image, label = self.read(index)
        if self.augment is not None:
            image, label = self.augment(image, label, number)
        return to_item(name, image, label)

    def _reduced(
        self,
        augment: Augmentation,
        read_ids: Callable[[Pair], NDArray[np.integer] | None],
        index: int,
        number: int,
    ) -> Item:
        pair = self.pairs[index]
        mask = read_ids(pair)
        if mask is None:
            raise ValueError(f"{pair.image} has no mask to be augmented with")
        height, width = mask.shape

        def read(reduction: int) -> tuple[NDArray[np.uint8], int]:
            image, reduction = read_reduced_image(pair.image, (height, width), reduction)
            if image.shape[:2] != reduced_size(mask.shape, reduction):
                raise ValueError(_complain_of_size(pair, read_image(pair.image).shape, mask.shape))
            return image, reduction

        return to_item(pair.name, *augment.of_file(read, self._decode(pair, mask), number))

    def _decode(self, pair: Pair, mask: NDArray[np.integer]) -> NDArray[np.integer]:
        try:
            return self.spec.decode(mask)
        except ValueError as error:
            raise ValueError(f"{pair.label}: {error}") from None


def _complain_of_size(pair: Pair, image: Sequence[int], mask: Sequence[int]) -> str:
    turned = " (is one of them turned by its EXIF tag?)" if (mask[1], mask[0]) == tuple(image[:2]) else ""
    return (
        f"{pair.label} has {mask[1]}x{mask[0]} pixels, its image {pair.image.name}"
        f" {image[1]}x{image[0]}{turned}: save the mask at the size of the image"
    )


def to_item(name: str, image: NDArray[np.uint8], label: NDArray[np.integer]) -> Item:
    """Makes tensors of an image `(H, W, 3)` and its label `(H, W)`.

    Returns:
        The item; its label is uint8, or int64 where ids need more.
    """
    planes = np.empty((3, *image.shape[:2]), np.uint8)
    cv2.split(image, list(planes))  # a tenth of the time of transposing in NumPy or torch
    wide = label if label.dtype == np.uint8 else label.astype(np.int64)
    return Item(torch.from_numpy(planes), torch.from_numpy(np.ascontiguousarray(wide)), name)


def collate(items: Sequence[Item]) -> Batch:
    """Stacks items to a batch; in a worker, straight into the memory that it shares with the trainer.

    Returns:
        The batch.

    Raises:
        ValueError: If images differ in size.
    """
    first = items[0]
    for item in items:
        if item.image.shape != first.image.shape:
            (h0, w0), (h1, w1) = first.image.shape[1:], item.image.shape[1:]
            raise ValueError(
                f"{first.name} ({w0}x{h0}) and {item.name} ({w1}x{h1}) do not fit into one batch: use"
                " eval_batch_size=1 in evaluation; in training, let train_transforms end in a crop and padding"
            )
    return Batch(
        default_collate([item.image for item in items]),  # (B, 3, H, W)
        default_collate([item.label for item in items]),  # (B, H, W)
        tuple(item.name for item in items),
        tuple(torch.stack(level) for level in zip(*(item.maps for item in items), strict=True)),  # (B, C, h, w)
    )

"""How others load the same files: MMSegmentation's pipeline re-stated, and albumentations in the obvious order.

Sources: https://github.com/open-mmlab/mmsegmentation/tree/v0.29.1/mmseg/datasets/pipelines with
https://github.com/open-mmlab/mmcv/tree/v1.7.1/mmcv/image for the first, whose steps, order and kind of
OpenCV and NumPy calls are kept; https://albumentations.ai/docs/ for the second. All label files hold 0 for no
class and k + 1 for class k.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
import torch
from albumentations.pytorch import ToTensorV2
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import default_collate

MEAN = np.array([123.675, 116.28, 103.53])  # ImageNet's, of 255
STD = np.array([58.395, 57.12, 57.375])
IGNORE = 255


class MMSegManner:
    """Decode, resize all, crop while one class dominates, flip, distort colours, normalise, pad, tensors."""

    def __init__(self, crop: tuple[int, int], scale: tuple[int, int], seed: int = 0) -> None:
        self.crop = crop
        self.scale = scale
        self.rng = np.random.default_rng(seed)

    def __call__(self, image_path: Path, label_path: Path) -> tuple[Tensor, Tensor]:
        """Loads a pair.

        Returns:
            Image `(3, H, W)` float32 normalised, and label `(H, W)` int64.
        """
        image = np.asarray(cv2.imdecode(np.frombuffer(image_path.read_bytes(), np.uint8), cv2.IMREAD_COLOR))
        with Image.open(label_path) as mask:  # the backend that is set there for labels
            label = np.array(mask, np.uint8)
        label[label == 0] = IGNORE  # reduce_zero_label
        label -= 1
        label[label == IGNORE - 1] = IGNORE
        image, label = self._resize(image, label)
        image, label = self._crop(image, label)
        if self.rng.random() < 0.5:
            image, label = np.flip(image, axis=1), np.flip(label, axis=1)
        image = self._distort(np.ascontiguousarray(image))
        normal = cv2.cvtColor(image.astype(np.float32), cv2.COLOR_BGR2RGB)
        cv2.subtract(normal, MEAN[None], normal)
        cv2.multiply(normal, 1 / STD[None], normal)
        rows, columns = (size - side for size, side in zip(self.crop, label.shape, strict=True))
        normal = cv2.copyMakeBorder(normal, 0, rows, 0, columns, cv2.BORDER_CONSTANT, value=0)
        label = np.ascontiguousarray(label)
        label = np.asarray(cv2.copyMakeBorder(label, 0, rows, 0, columns, cv2.BORDER_CONSTANT, value=IGNORE))
        planes = np.ascontiguousarray(normal.transpose(2, 0, 1))
        return torch.from_numpy(planes), torch.from_numpy(label.astype(np.int64))

    def _resize(self, image: NDArray[Any], label: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        ratio = self.rng.uniform(0.5, 2.0)
        long, short = (int(side * ratio) for side in self.scale)
        height, width = label.shape
        factor = min(long / max(height, width), short / min(height, width))
        size = int(width * factor + 0.5), int(height * factor + 0.5)
        return (
            np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)),
            np.asarray(cv2.resize(label, size, interpolation=cv2.INTER_NEAREST)),
        )

    def _crop(self, image: NDArray[Any], label: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        window = self._window(label.shape)
        for _ in range(10):
            classes, counts = np.unique(label[window], return_counts=True)
            counts = counts[classes != IGNORE]
            if len(counts) > 1 and counts.max() / counts.sum() < 0.75:
                break
            window = self._window(label.shape)
        return image[window], label[window]

    def _window(self, shape: Sequence[int]) -> tuple[slice, slice]:
        top, left = (
            int(self.rng.integers(0, max(side - size, 0) + 1))
            for side, size in zip(shape, self.crop, strict=True)
        )
        return slice(top, top + self.crop[0]), slice(left, left + self.crop[1])

    def _distort(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Each step with probability 1/2, on floats, and back to bytes after each."""
        uniform, chance = self.rng.uniform, self.rng.random
        if chance() < 0.5:
            image = _linear(image, 1, uniform(-32, 32))
        contrast_first = chance() < 0.5
        if contrast_first and chance() < 0.5:
            image = _linear(image, uniform(0.5, 1.5), 0)
        if chance() < 0.5:
            hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
            hsv[:, :, 1] = _linear(np.asarray(hsv[:, :, 1], np.uint8), uniform(0.5, 1.5), 0)
            image = np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR), np.uint8)
        if chance() < 0.5:
            hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
            hsv[:, :, 0] = (hsv[:, :, 0].astype(int) + int(self.rng.integers(-18, 18))) % 180
            image = np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR), np.uint8)
        if not contrast_first and chance() < 0.5:
            image = _linear(image, uniform(0.5, 1.5), 0)
        return image


class PlainAlbumentations:
    """Decode by OpenCV, then a list of transforms as the documentation suggests it."""

    def __init__(self, crop: tuple[int, int], seed: int = 0) -> None:
        """Sets up the list. Images have the short side of the crop already, so that scaling needs no limits."""
        self.compose = A.Compose(
            [
                A.RandomScale((-0.5, 1.0), p=1.0),
                A.RandomCrop(*crop, pad_if_needed=True, fill=128, fill_mask=IGNORE),
                A.HorizontalFlip(p=0.5),
                # Two steps of four on average, as in MMSegmentation: all four half of the time.
                A.ColorJitter(brightness=32 / 255, contrast=0.5, saturation=0.5, hue=0.1, p=0.5),
                A.Normalize(),
                ToTensorV2(),
            ],
            seed=seed,
        )

    def __call__(self, image_path: Path, label_path: Path) -> tuple[Tensor, Tensor]:
        """Loads a pair.

        Returns:
            Image `(3, H, W)` float32 normalised, and label `(H, W)` int64.
        """
        image = np.asarray(cv2.imread(str(image_path), cv2.IMREAD_COLOR))
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        label = cv2.imread(str(label_path), cv2.IMREAD_UNCHANGED)
        result = self.compose(image=image, mask=np.asarray(label, np.uint8) - np.uint8(1))  # 0 becomes 255
        return result["image"], result["mask"].long()


def collate(pairs: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """Stacks pairs as `DataLoader` does unless told otherwise."""
    stacked: list[Tensor] = default_collate(list(pairs))
    return stacked


def _linear(image: NDArray[np.uint8], factor: float, shift: float) -> NDArray[np.uint8]:
    return np.asarray(np.clip(image.astype(np.float32) * factor + shift, 0, 255), np.uint8)

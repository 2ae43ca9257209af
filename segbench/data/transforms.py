"""MMSegmentation's training augmentation in steps, as albumentations transforms for lists of one's own.

Source: https://github.com/open-mmlab/mmsegmentation/blob/v0.29.1/mmseg/datasets/pipelines/transforms.py. It
differs in one rounding: saturation and hue change in one trip through HSV, where the source makes two. What
training does unless told otherwise is `segbench.data.augment`, which is several times faster.
"""

import random
from collections.abc import Sequence
from typing import Any, TypeAlias

import albumentations as A
import cv2
import numpy as np
from albumentations.core.composition import BaseCompose
from numpy.typing import NDArray

from segbench.data.augment import Augmentation, is_varied

Transform: TypeAlias = A.BasicTransform | BaseCompose


class RandomScale(A.DualTransform):  # type: ignore[misc]
    """Resizes image and label by a random factor, keeping their proportions.

    Args:
        scale: (long, short) limits that the picture is fitted into at factor 1; `None` leaves its own size.
        factor: Range of the factor.
    """

    def __init__(
        self, scale: tuple[int, int] | None = None, factor: tuple[float, float] = (0.5, 2.0), p: float = 1.0
    ) -> None:
        super().__init__(p=p)
        self.scale = scale
        self.factor = factor

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Draws the new size."""
        height, width = params["shape"][:2]
        factor = self.py_random.uniform(*self.factor)
        if self.scale is not None:
            long, short = (int(side * factor) for side in self.scale)
            factor = min(long / max(height, width), short / min(height, width))
        return {"size": (max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5)))}

    def apply(self, img: NDArray[np.uint8], size: tuple[int, int], **_: Any) -> NDArray[np.uint8]:
        """Resizes the image."""
        return np.asarray(cv2.resize(img, size[::-1], interpolation=cv2.INTER_LINEAR), np.uint8)

    def apply_to_mask(self, mask: NDArray[np.integer], size: tuple[int, int], **_: Any) -> NDArray[np.integer]:
        """Resizes the label; ids are never mixed."""
        return np.asarray(cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST), mask.dtype)


class VariedCrop(A.DualTransform):  # type: ignore[misc]
    """Cuts out a random window, drawn again up to ten times while one class fills nearly all of it.

    Args:
        size: Height and width; a smaller picture is left as it is.
        cat_max_ratio: Share of labelled pixels that no class should reach; 1 takes the first window.
        ignore_index: Label of pixels that belong to no class.
    """

    def __init__(
        self, size: tuple[int, int], cat_max_ratio: float = 0.75, ignore_index: int = 255, p: float = 1.0
    ) -> None:
        super().__init__(p=p)
        self.size = size
        self.cat_max_ratio = cat_max_ratio
        self.ignore_index = ignore_index

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Draws the window."""
        shape = params["shape"][:2]
        window = self._draw(shape)
        if self.cat_max_ratio < 1 and "mask" in data:
            for _ in range(10):
                if is_varied(data["mask"][window], self.cat_max_ratio, self.ignore_index):
                    break
                window = self._draw(shape)
        return {"window": window}

    def apply(self, img: NDArray[Any], window: tuple[slice, slice], **_: Any) -> NDArray[Any]:
        """Cuts image and label alike."""
        return img[window]

    def _draw(self, shape: tuple[int, int]) -> tuple[slice, slice]:
        tops = (
            self.py_random.randint(0, max(side - size, 0)) for side, size in zip(shape, self.size, strict=True)
        )
        rows, columns = (slice(top, top + size) for top, size in zip(tops, self.size, strict=True))
        return rows, columns


class PhotoMetricDistortion(A.ImageOnlyTransform):  # type: ignore[misc]
    """Changes brightness, contrast, saturation and hue, each with probability 1/2; contrast first or last.

    Args:
        brightness: Largest shift of grey values.
        contrast: Range of the factor on grey values.
        saturation: Range of the factor on saturation.
        hue: Largest shift of hue, in OpenCV's half degrees.
    """

    def __init__(
        self,
        brightness: int = 32,
        contrast: tuple[float, float] = (0.5, 1.5),
        saturation: tuple[float, float] = (0.5, 1.5),
        hue: int = 18,
        p: float = 1.0,
    ) -> None:
        super().__init__(p=p)
        self.brightness = brightness
        self.contrast = contrast
        self.saturation = saturation
        self.hue = hue

    def get_params(self) -> dict[str, Any]:
        """Draws which steps are done, and how strongly."""
        flip, uniform = self.py_random.random, self.py_random.uniform
        return {
            "shift": uniform(-self.brightness, self.brightness) if flip() < 0.5 else 0.0,
            "contrast": uniform(*self.contrast) if flip() < 0.5 else 1.0,
            "contrast_first": flip() < 0.5,
            "saturation": uniform(*self.saturation) if flip() < 0.5 else 1.0,
            "hue": self.py_random.randrange(-self.hue, self.hue) if flip() < 0.5 else 0,
        }

    def apply(
        self,
        img: NDArray[np.uint8],
        shift: float,
        contrast: float,
        contrast_first: bool,
        saturation: float,
        hue: int,
        **_: Any,
    ) -> NDArray[np.uint8]:
        """Applies the drawn steps; every step on single channels is a table of 256 entries."""
        before = _table(1.0, shift)
        if contrast_first:
            before = _table(contrast, 0.0)[before]
        out = cv2.LUT(img, before)
        if saturation != 1.0 or hue:
            hues = ((np.arange(256) + hue) % 180).astype(np.uint8)
            tables = np.stack([hues, _table(saturation, 0.0), _table(1.0, 0.0)], axis=1)[None]  # (1, 256, 3)
            hsv = cv2.LUT(cv2.cvtColor(out, cv2.COLOR_RGB2HSV), tables)
            out = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
        return np.asarray(out if contrast_first else cv2.LUT(out, _table(contrast, 0.0)), np.uint8)


def _table(factor: float, shift: float) -> NDArray[np.uint8]:
    return np.asarray(np.clip(np.arange(256, dtype=np.float32) * factor + shift, 0, 255), np.uint8)


class Transforms(Augmentation):
    """Applies a list of transforms whose random numbers depend on the seed and the draw alone."""

    def __init__(self, transforms: Sequence[Transform], seed: int = 0) -> None:
        self.compose = A.Compose(list(transforms))
        self.seed = seed

    def __call__(
        self, image: NDArray[np.uint8], label: NDArray[np.integer], number: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.integer]]:
        """Applies the transforms to one sample, seeded by its number."""
        generator = np.random.default_rng((self.seed, number))
        # One pair of generators for all transforms: a quarter of the time of `set_random_seed`, which makes a
        # pair for each transform and gives all of them the same numbers.
        self.compose.set_random_state(generator, random.Random(int(generator.integers(1 << 63))))  # noqa: S311
        result = self.compose(image=image, mask=label)
        return result["image"], result["mask"]

    def fingerprint_fields(self) -> object:
        """Returns albumentations' own serialization of the transforms."""
        try:
            return A.to_dict(self.compose)["transform"]
        except (NotImplementedError, ValueError) as error:
            raise ValueError(f"train_transforms cannot be written down ({error}): name the transform") from None

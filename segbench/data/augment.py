"""The augmentation that training does unless told otherwise: scale, crop, flip, colours and padding in one go.

It draws as MMSegmentation's pipeline does,
https://github.com/open-mmlab/mmsegmentation/blob/v0.29.1/mmseg/datasets/pipelines/transforms.py, but for

- scale and crop: the window is cut out of the image as it is on disk, then resized, so that what is cut away is
  never resized. Windows begin at whole pixels of the source; a resized image would begin them in between.
- how varied a window is, is judged by every fourth of its rows.
- colours: one matrix and one clipping for all four steps. Brightness and contrast are the same; saturation and
  hue change around the grey axis in YIQ, where luma stays, not in the hexagon of HSV, where the largest of red,
  green and blue stays. On images pixels move less far by saturation and farther by hue, each by about a
  third.
"""

import copy
import math
import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple, Self, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from segbench.data.io.scaled_jpeg import REDUCTIONS

Number = TypeVar("Number", bound=np.integer)
Read = Callable[[int], tuple[NDArray[np.uint8], int]]

FILL = 128  # grey value of padded pixels: the mean of a ViT's normalisation to [−1, 1]

_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
_RGB = np.linalg.inv(_YIQ)
_TRIES = 10  # windows drawn before one is taken as it is


class Augmentation(ABC):
    """From an image and its label as read to both as training sees them.

    Attributes:
        seed: With the number of a draw, decides everything.
    """

    seed: int

    @abstractmethod
    def __call__(
        self, image: NDArray[np.uint8], label: NDArray[np.integer], number: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.integer]]:
        """Augments one draw.

        Args:
            image: `(H, W, 3)` RGB.
            label: `(H, W)` training ids.
            number: The draw's number.

        Returns:
            The augmented image and label.
        """

    def of_file(
        self, read: Read, label: NDArray[np.integer], number: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.integer]]:
        """Augments one draw whose image is still to be read; one that shrinks images may have it read smaller.

        Args:
            read: Reads the image at 1 / n of its size, or larger; says by how much it is smaller.
            label: `(H, W)` training ids.
            number: The draw's number.

        Returns:
            The augmented image and label.
        """
        return self(read(1)[0], label, number)

    @abstractmethod
    def fingerprint_fields(self) -> object:
        """Writes down what the result depends on beside seed and draw.

        Returns:
            Plain values.

        Raises:
            ValueError: If it cannot be written down.
        """

    def reseeded(self, seed: int) -> Self:
        """Copies the augmentation with another seed."""
        other = copy.copy(self)
        other.seed = seed
        return other


class View(NamedTuple):
    """What is shown of an image.

    Attributes:
        rows: Of the source.
        columns: Of the source.
        size: Height and width that they are resized to.
        mirrored: Left and right change places.
    """

    rows: slice
    columns: slice
    size: tuple[int, int]
    mirrored: bool

    def reduced(self, reduction: int) -> "View":
        """Finds the window in an image that was read at 1 / reduction of its size, to the nearest pixel."""
        rows, columns = (
            slice((side.start + reduction // 2) // reduction, (side.stop + reduction // 2) // reduction)
            for side in (self.rows, self.columns)
        )
        return self._replace(rows=rows, columns=columns)

    def is_shrunk(self) -> bool:
        """Returns whether no side of the window has fewer pixels than are made of it."""
        sides = zip((self.rows, self.columns), self.size, strict=True)
        return all(side.stop - side.start >= size for side, size in sides)


class Colors(NamedTuple):
    """How strongly colours change; each of the four changes is made half of the time.

    Attributes:
        brightness: Largest shift of grey values.
        contrast: Range of the factor on grey values.
        saturation: Range of the factor on the distance from grey.
        hue: Largest turn in degrees.
    """

    brightness: float = 32
    contrast: tuple[float, float] = (0.5, 1.5)
    saturation: tuple[float, float] = (0.5, 1.5)
    hue: float = 36

    def draw(self, rng: random.Random) -> NDArray[np.float64] | None:
        """Draws a change.

        Returns:
            `(3, 4)` matrix as in `color_matrix`; None where nothing is to change.
        """
        steps = [rng.random() < 0.5 for _ in self]
        drawn = (
            rng.uniform(-self.brightness, self.brightness),
            rng.uniform(*self.contrast),
            rng.uniform(*self.saturation),
            rng.uniform(-self.hue, self.hue),
        )
        shift, contrast, saturation, hue = (
            value if step else none
            for step, value, none in zip(steps, drawn, (0.0, 1.0, 1.0, 0.0), strict=True)
        )
        return color_matrix(shift, contrast, saturation, hue) if any(steps) else None


class StandardAugment(Augmentation):
    """Scales, crops, flips, changes colours and pads, by random numbers of the seed and the draw alone."""

    def __init__(
        self,
        img_size: tuple[int, int],
        ignore_index: int,
        scale: tuple[int, int] | None = None,
        seed: int = 0,
        factor: tuple[float, float] = (0.5, 2.0),
        cat_max_ratio: float = 0.75,
        flip: float = 0.5,
        colors: Colors | None = Colors(),  # noqa: B008 - immutable
    ) -> None:
        """Sets up the augmentation.

        Args:
            img_size: Height and width of the result.
            ignore_index: Label of padded pixels, and of those without a class.
            scale: (long, short) limits that the image is fitted into at factor 1; `None` leaves its own size.
            seed: With the number of a draw, decides everything.
            factor: Range of the random factor on the size.
            cat_max_ratio: Share of labelled pixels that no class should reach; a window in which one does is
                drawn again, up to ten times. 1 takes the first.
            flip: Probability of a mirror image.
            colors: How strongly colours change; `None` leaves them.
        """
        self.img_size = img_size
        self.ignore_index = ignore_index
        self.scale = scale
        self.seed = seed
        self.factor = factor
        self.cat_max_ratio = cat_max_ratio
        self.flip = flip
        self.colors = colors

    def __call__(
        self, image: NDArray[np.uint8], label: NDArray[np.integer], number: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.integer]]:
        """Augments one sample and returns image `(H, W, 3)` and label `(H, W)` of `img_size`."""
        return self.of_file(lambda _: (image, 1), label, number)

    def of_file(
        self, read: Read, label: NDArray[np.integer], number: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.integer]]:
        """Augments one draw, and has its image read as small as it can be without being enlarged.

        The draw is the same. The window in a smaller image begins and ends at whole pixels, which moves it by
        half a pixel of the result at most.
        """
        rng = randomness(self.seed, number)
        view = self.draw(label, rng)
        image, reduction = read(next((n for n in REDUCTIONS if view.reduced(n).is_shrunk()), 1))
        image = cut(image, view.reduced(reduction), cv2.INTER_LINEAR)
        label = cut(label, view, cv2.INTER_NEAREST)
        image = self.recolor(image, rng)
        return pad(image, self.img_size, FILL), pad(label, self.img_size, self.ignore_index)

    def recolor(self, image: NDArray[np.uint8], rng: random.Random) -> NDArray[np.uint8]:
        """Changes colours at random."""
        matrix = self.colors.draw(rng) if self.colors else None
        return image if matrix is None else np.asarray(cv2.transform(image, matrix), np.uint8)

    def fingerprint_fields(self) -> object:
        """Returns the options, which decide what is computed."""
        return {name: value for name, value in vars(self).items() if name != "seed"}

    def draw(self, label: NDArray[np.integer], rng: random.Random) -> View:
        """Draws the size, the window, and whether it is mirrored."""
        height, width = label.shape
        factor = rng.uniform(*self.factor)
        if self.scale is not None:
            long, short = (int(side * factor) for side in self.scale)
            factor = min(long / max(height, width), short / min(height, width))
        (rows, out_height), (columns, out_width) = (
            _extent(side, factor, size) for side, size in zip(label.shape, self.img_size, strict=True)
        )
        for _ in range(_TRIES + 1):
            top, left = rng.randint(0, height - rows), rng.randint(0, width - columns)
            window = slice(top, top + rows), slice(left, left + columns)
            if self.cat_max_ratio >= 1:
                break
            if is_varied(label[window][:: min(4, rows)], self.cat_max_ratio, self.ignore_index):
                break
        return View(*window, (out_height, out_width), rng.random() < self.flip)


def plain_augment(
    img_size: tuple[int, int], ignore_index: int, scale: tuple[int, int] | None, seed: int
) -> StandardAugment:
    """Builds what is left without augmentation: padding, or a crop, drawn again each time."""
    return StandardAugment(
        img_size, ignore_index, scale, seed, (1.0, 1.0), cat_max_ratio=1, flip=0, colors=None
    )


def randomness(seed: int, number: int) -> random.Random:
    """Makes the random numbers of one draw, wherever it is computed."""
    return random.Random(int(np.random.default_rng((seed, number)).integers(1 << 63)))  # noqa: S311


def is_varied(label: NDArray[np.integer], cat_max_ratio: float, ignore_index: int) -> bool:
    """Returns whether there are two classes or more, none of which fills nearly all.

    Args:
        label: `(h, w)` training ids.
        cat_max_ratio: Share of labelled pixels that no class may reach.
        ignore_index: Label of pixels that belong to no class.
    """
    if label.dtype == np.uint8:
        counts = cv2.calcHist([np.ascontiguousarray(label)], [0], None, [256], [0, 256]).ravel()
    else:
        counts = np.bincount(label.ravel(), minlength=ignore_index + 1)
    counts[ignore_index] = 0
    return bool(np.count_nonzero(counts) > 1 and counts.max() / counts.sum() < cat_max_ratio)


def cut(array: NDArray[Number], view: View, interpolation: int) -> NDArray[Number]:
    """Cuts a view out of an image `(H, W, 3)` or a label `(H, W)`; interpolation is one of OpenCV's.

    Returns:
        `(h, w, 3)` or `(h, w)`, `view.size` high and wide.
    """
    source = array[view.rows, view.columns]
    if view.mirrored:
        source = np.asarray(cv2.flip(source, 1), array.dtype)
    return np.asarray(cv2.resize(source, view.size[::-1], interpolation=interpolation), array.dtype)


def pad(array: NDArray[Number], size: tuple[int, int], fill: int) -> NDArray[Number]:
    """Fills an image or a label up at the bottom and on the right, if it is smaller than `size`."""
    height, width = array.shape[:2]
    if (height, width) == size:
        return array
    padded = np.full((*size, *array.shape[2:]), fill, array.dtype)
    padded[:height, :width] = array
    return padded


def color_matrix(shift: float, contrast: float, saturation: float, hue: float) -> NDArray[np.float64]:
    """Writes four changes of colour as one, with grey staying grey under saturation and hue.

    Args:
        shift: Added to grey values first.
        contrast: Factor on grey values.
        saturation: Factor on the distance from grey of the same luma.
        hue: Turn around the grey axis in degrees.

    Returns:
        `(3, 4)` matrix on red, green, blue and 1.
    """
    sine, cosine = saturation * math.sin(math.radians(hue)), saturation * math.cos(math.radians(hue))
    turn = np.array([[1, 0, 0], [0, cosine, sine], [0, -sine, cosine]])  # red goes to yellow, as in HSV
    matrix = contrast * (_RGB @ turn @ _YIQ)
    return np.concatenate([matrix, np.full((3, 1), contrast * shift)], axis=1)


def _extent(side: int, factor: float, size: int) -> tuple[int, int]:
    """Computes how much of a side is shown, and how many pixels that becomes."""
    scaled = max(1, int(side * factor + 0.5))
    if scaled <= size:
        return side, scaled
    return min(side, max(1, round(size * side / scaled))), size

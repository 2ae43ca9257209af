"""Types exchanged between packages, and the symbols of shapes used in all comments.

`B` images, `C` channels, `H×W` pixels, `h×w` grid, `N = h·w` tokens, `K` classes, `L` levels, `Q` queries,
`S` shots.
"""

from typing import NamedTuple

from torch import Tensor


class Features(NamedTuple):
    """Output of encoders and necks.

    Attributes:
        image: `(B, 3, H, W)` normalised pixels, already padded at the bottom and right to whole patches. Its
            size is the size to which logits are upsampled before they are cropped to the image.
        maps: `L` maps `(B, C_l, h_l, w_l)`, shallow to deep, prefix tokens removed.
    """

    image: Tensor
    maps: tuple[Tensor, ...]


class FeatureInfo(NamedTuple):
    """Shapes of `Features.maps`, known before the first image.

    Attributes:
        channels: `C_l` of each map.
        strides: Pixels per cell of each map.
        grid: `(h, w)` of the deepest map at the encoder's `img_size`.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    grid: tuple[int, int]


class Prediction(NamedTuple):
    """Output of every decoder, the same in training and evaluation.

    Attributes:
        logits: `(B, K, h, w)` at the decoder's own stride, never upsampled to pixels.
        boundary: `(B, 1, h, w)` boundary logits, if the decoder has a boundary head.
        colors: `(B, 3, h, w)` in [0, 1], if the decoder regresses label colours.
    """

    logits: Tensor
    boundary: Tensor | None = None
    colors: Tensor | None = None


class Batch(NamedTuple):
    """A batch of images and labels as the loader delivers it.

    Attributes:
        image: `(B, 3, H, W)` uint8 RGB; the encoder normalises on the device.
        label: `(B, H, W)` uint8 or int64 training ids, `ignore_index` where unlabelled.
        name: One name for each image, unique within its split.
        maps: `L` maps `(B, C_l, h_l, w_l)` of a frozen encoder, fp16, from the feature cache; empty without it.
    """

    image: Tensor
    label: Tensor
    name: tuple[str, ...]
    maps: tuple[Tensor, ...] = ()

"""The decoder half of the patch U-Net: raw patches come back in beside their features; no convolution anywhere.

Source: the report "Vision Transformers for Segmentation"; it is not published, and no code has a lasting
address. There a patch yields 16×16 RGB values, and the sequence of patches is reshaped into an image without
being put in place, which explains the stripes that the report wonders about. Here a patch yields class logits
and lies where it was cut out (`fold="raw"` is the report's reshape), and any encoder will do: one linear layer
for each token stands for the bottleneck over all tokens, which `segbench.encoders.patch_vit.PatchViT` has.
All pixels are predicted, so that logits exist at full size, unlike with any other decoder: K = 150 at 512×512
takes 157 MB for each image and copy.
"""

from typing import Literal

import torch
from torch import nn

from segbench.decoders.base import Decoder
from segbench.functional.patches import patches_to_image, pixels_in_patch_order
from segbench.functional.tokens import crop, map_to_tokens, pad_to_multiple
from segbench.layers.keras_linear import keras_linear, mlp
from segbench.layers.patch_tokens import PatchTokens
from segbench.types import FeatureInfo, Features, Prediction


class PatchUNet(Decoder):
    """Predicts all pixels of a patch at once, from its features, its raw pixels and its position."""

    def __init__(
        self,
        info: FeatureInfo,
        num_classes: int,
        feature_dim: int | None = 32,
        patch_dim: int = 128,
        pos_dim: int = 8,
        hidden: tuple[int, ...] = (512, 512, 512),
        dropout: float = 0.3,
        fold: Literal["patches", "raw"] = "patches",
    ) -> None:
        """Builds the layers.

        Args:
            info: Of the features that come in; the deepest map is used, and its stride is the patch.
            num_classes: `K`.
            feature_dim: Width to which features are reduced; null takes them as they are.
            patch_dim: Width of the projection of raw patches.
            pos_dim: Width of the position embedding.
            hidden: Width of each hidden layer.
            dropout: Share of hidden values set to zero in training.
            fold: `patches` puts every patch in its place; `raw` is the report's reshape, which fills the image
                row by row with one patch after another, and knows the encoder's `img_size` only.

        Raises:
            ValueError: If a width is not positive.
        """
        super().__init__()
        feature_width = info.channels[-1] if feature_dim is None else feature_dim
        if min(feature_width, patch_dim, pos_dim, *hidden) < 1:
            raise ValueError(
                f"PatchUNet needs widths of 1 or more; got feature_dim={feature_dim}, patch_dim={patch_dim}, "
                f"pos_dim={pos_dim}, hidden={list(hidden)}"
            )
        self.patch_size = info.strides[-1]
        self.grid = info.grid
        self.fold = fold
        self.patches = PatchTokens(self.patch_size, info.grid, patch_dim, pos_dim)
        self.reduce = nn.Identity() if feature_dim is None else keras_linear(info.channels[-1], feature_dim)
        width = patch_dim + pos_dim + feature_width
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp = mlp(width, hidden, nn.ReLU, dropout)
        # (row, column, class) within a patch.
        self.head = keras_linear((width, *hidden)[-1], self.patch_size * self.patch_size * num_classes)

    def forward(self, features: Features) -> Prediction:
        """Returns logits `(B, K, H, W)` at full resolution.

        Raises:
            ValueError: If the deepest map has not one cell for each patch, or `fold` is `raw` and the image has
                not the encoder's `img_size`.
        """
        height, width = features.image.shape[-2:]
        image = pad_to_multiple(features.image, self.patch_size)  # not every encoder pads to whole cells
        grid = (image.shape[-2] // self.patch_size, image.shape[-1] // self.patch_size)
        self._check(grid, (features.maps[-1].shape[-2], features.maps[-1].shape[-1]))

        reduced = self.reduce(map_to_tokens(features.maps[-1]))  # (B, N, feature_dim)
        tokens = torch.cat([self.patches(image), reduced], dim=-1)
        pixels = self.head(self.mlp(self.norm(tokens)))  # (B, N, P·P·K)
        fold = patches_to_image if self.fold == "patches" else pixels_in_patch_order
        return Prediction(crop(fold(pixels, grid, self.patch_size), (height, width)))

    def _check(self, patches: tuple[int, int], cells: tuple[int, int]) -> None:
        if patches != cells:
            raise ValueError(
                f"PatchUNet cuts {patches[0]}×{patches[1]} patches of {self.patch_size} pixels, but the deepest"
                f" map has {cells[0]}×{cells[1]} cells; choose an encoder with square patches"
            )
        if self.fold == "raw" and patches != self.grid:
            height, width = (side * self.patch_size for side in self.grid)
            raise ValueError(
                f"fold: raw needs images of {height}×{width}, for their size decides where a pixel goes; "
                f"set window and stride to [{height}, {width}], or fold to patches"
            )

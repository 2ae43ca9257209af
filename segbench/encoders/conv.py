"""The attention U-Net's own encoder: pairs of convolutions and pooling, from full resolution to 1/32.

Source: the article "Attention UNets for Image Segmentation" and its code,
https://github.com/dmitri-chouchkov/fashion-segmentation, which settles SiLU where the article says ReLU, norms
without weights, and a skip made of both norms' outputs.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from segbench.encoders.base import DepthGroup, Encoder
from segbench.functional.tokens import pad_to_multiple
from segbench.layers.initialization import normal
from segbench.layers.norm import Norm, build_norm
from segbench.types import FeatureInfo, Features

MULTIPLES = (2, 2, 4, 8, 16)  # channels of the blocks, in base features


class DownBlock(nn.Module):
    """Convolution, SiLU, norm, twice; then halves the size."""

    def __init__(self, in_channels: int, out_channels: int, norm: Norm) -> None:
        """Builds the layers.

        Args:
            in_channels: Of the map that comes in.
            out_channels: Of the map that is passed on; the skip has twice as many.
            norm: Kind of norm.
        """
        super().__init__()
        self.conv1 = normal(nn.Conv2d(in_channels, out_channels, 3, padding=1))
        self.norm1 = build_norm(norm, out_channels)
        self.conv2 = normal(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.norm2 = build_norm(norm, out_channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Gives the halved map and the skip at full size."""
        first = self.norm1(F.silu(self.conv1(x)))  # (B, o, h, w)
        second = self.norm2(F.silu(self.conv2(first)))  # (B, o, h, w)
        return F.max_pool2d(second, 2), torch.cat([first, second], dim=1)  # (B, o, h/2, w/2), (B, 2o, h, w)


class ConvEncoder(Encoder):
    """Five blocks down: skips at strides 1 to 16, and a last map at stride 32."""

    def __init__(
        self,
        img_size: tuple[int, int],
        base_features: int = 48,
        norm: Norm = "group",
        grad_checkpointing: bool = False,
    ) -> None:
        """Builds the blocks; there are no pretrained weights.

        Args:
            img_size: `(height, width)` of training crops.
            base_features: The blocks have 2, 2, 4, 8 and 16 times as many channels. 48 is what the article
                calls 96 base features, 32 what it calls 64.
            norm: Kind of norm; `batch` makes images of a batch depend on each other.
            grad_checkpointing: Recompute blocks in the backward pass: slower, less memory.

        Raises:
            ValueError: If `base_features` is not positive.
        """
        super().__init__()
        if base_features < 1:
            raise ValueError(f"base_features must be at least 1; got {base_features}")
        channels = [base_features * multiple for multiple in MULTIPLES]
        self.blocks = nn.ModuleList(
            DownBlock(narrow, wide, norm) for narrow, wide in zip([3, *channels], channels, strict=False)
        )
        self.grad_checkpointing = grad_checkpointing
        strides = tuple(2**level for level in range(len(channels) + 1))
        self.info = FeatureInfo(
            channels=(*(2 * wide for wide in channels), channels[-1]),
            strides=strides,
            grid=(math.ceil(img_size[0] / strides[-1]), math.ceil(img_size[1] / strides[-1])),
        )

    def normalize(self, image: Tensor) -> Tensor:
        """Returns normalised pixels, padded to a multiple of the stride."""
        return pad_to_multiple(image / 255, self.info.strides[-1])  # (B, 3, H', W'); no mean, no deviation

    def forward(self, image: Tensor) -> Features:
        """Returns the maps of images of any size."""
        x = image = self.normalize(image)
        maps = []
        for block in self.blocks:
            if self.grad_checkpointing and self.training:
                x, skip = checkpoint(block, x, use_reentrant=False)
            else:
                x, skip = block(x)
            maps.append(skip)
        return Features(image, (*maps, x))

    def depth_groups(self) -> list[DepthGroup]:
        """Returns the parameters grouped by block, shallow to deep."""
        return [
            DepthGroup(depth, [(f"blocks.{depth}.{name}", p) for name, p in block.named_parameters()])
            for depth, block in enumerate(self.blocks)
        ]

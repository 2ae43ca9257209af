"""Over which values a map is normalised: the choices that the attention U-Net's article compares.

Source: the article of https://github.com/dmitri-chouchkov/fashion-segmentation, sections 6.3 to 6.6. Its
estimate of batch statistics from earlier mini-batches is left out: the article gives a sketch only.
"""

from typing import Literal

from torch import Tensor, nn

Norm = Literal["group", "instance", "layer", "local", "batch"]


class LocalNorm(nn.Module):
    """Normalises the channels of every cell on their own ("local feature normalization")."""

    def __init__(self, channels: int, affine: bool = True, weight: float = 1.0) -> None:
        """Builds the norm.

        Args:
            channels: `C`.
            affine: Whether a learned weight and bias for each channel follow.
            weight: What the weights start from.
        """
        super().__init__()
        self.norm = nn.LayerNorm(channels, elementwise_affine=affine)
        if affine:
            nn.init.constant_(self.norm.weight, weight)

    def forward(self, feature_map: Tensor) -> Tensor:
        """Normalises `(B, C, h, w)` over `C`."""
        normalized: Tensor = self.norm(feature_map.permute(0, 2, 3, 1))  # (B, h, w, C)
        return normalized.permute(0, 3, 1, 2)


def build_norm(norm: Norm, channels: int, affine: bool = False) -> nn.Module:
    """Builds a normalisation of maps.

    Args:
        norm: Which values share mean and variance: `group` a share of the channels over one whole map (32
            groups where each gets as many channels, two at least), `instance` one channel, which needs maps of
            more than one cell, `layer` all channels, `local` all channels of one cell, `batch` one channel of
            all images in the batch. `batch` makes images depend on each other, on all devices together
            unless `--trainer.sync_batchnorm false` is given.
        channels: `C`.
        affine: Whether a learned weight and bias for each channel follow.

    Returns:
        A module `(B, C, h, w) → (B, C, h, w)`.
    """
    if norm == "batch":
        return nn.BatchNorm2d(channels, affine=affine)
    if norm == "local":
        return LocalNorm(channels, affine)
    if norm == "group":
        # A group of one channel on a map of one cell would leave nothing but zero.
        groups = next(n for n in (32, 16, 8, 4, 2, 1) if (channels % n == 0 and channels >= 2 * n) or n == 1)
    else:
        groups = channels if norm == "instance" else 1
    return nn.GroupNorm(groups, channels, affine=affine)

"""A pyramid made of a plain ViT's maps of one stride, in the manner of ViTDet.

Paper: https://arxiv.org/abs/2203.16527. Code: https://github.com/facebookresearch/detectron2 (class
`SimpleFeaturePyramid`). As there, each level is scaled from the ViT's stride by transposed convolutions or
pooling, then goes through a 1×1 and a 3×3 convolution. Unlike there, levels may have widths of their own and
may be made of maps from different depths; patches of 14 pixels, which cannot be quartered, give strides 7, 14
and 28; pooling keeps a last odd row or column; and norms have torch's ε of 1e-5.
"""

from torch import nn

from segbench.layers.norm import Norm, build_norm
from segbench.necks.base import Neck
from segbench.types import FeatureInfo, Features


class Pyramid(Neck):
    """Maps of one stride in, one map each of 1/4, 1/2, 1 and 2 times that stride out."""

    def __init__(
        self, info: FeatureInfo, channels: int | list[int] | None = None, norm: Norm = "local"
    ) -> None:
        """Builds one branch for each level.

        Args:
            info: Of the features that come in, all of one stride. With several maps each level is made of one,
                shallow maps giving fine levels; with fewer maps than levels some serve twice.
            channels: Of the maps that go out, shallow to deep: one number for all (ViTDet: 256) or one for
                each. By default C/4, C/2, C, C, where C are the channels of the deepest map that comes in.
            norm: Kind of norm, with learned weights; `local` is ViTDet's LayerNorm over the channels of a cell.

        Raises:
            ValueError: If the strides differ, or channels are not one for each level.
        """
        super().__init__()
        stride = info.strides[-1]
        if set(info.strides) != {stride}:
            raise ValueError(
                f"Pyramid needs maps of one stride, not strides {list(info.strides)}; remove it from necks"
            )
        halvings = [count for count in (2, 1, 0) if stride % 2**count == 0]  # whole pixels per cell
        strides = (*(stride // 2**count for count in halvings), 2 * stride)
        deepest = info.channels[-1]
        if channels is None:
            widths = [max(1, deepest // 2**count) for count in halvings] + [deepest]
        else:
            widths = [channels] * len(strides) if isinstance(channels, int) else list(channels)
        if len(widths) != len(strides) or min(widths) < 1:
            raise ValueError(
                f"channels: needed is one number, or {len(strides)} for strides {list(strides)}; got {channels}"
            )

        steps, last = len(strides) - 1, len(info.channels) - 1
        self._sources = [round(level * last / steps) for level in range(len(strides))]  # first map to last
        self.branches = nn.ModuleList(
            _branch(info.channels[source], width, stride / target, norm)
            for source, target, width in zip(self._sources, strides, widths, strict=True)
        )
        grid = (-(-info.grid[0] // 2), -(-info.grid[1] // 2))
        self.info = FeatureInfo(tuple(widths), strides, grid)

    def forward(self, features: Features) -> Features:
        """Returns one map for each stride, shallow to deep."""
        maps = tuple(
            branch(features.maps[source]) for branch, source in zip(self.branches, self._sources, strict=True)
        )
        return Features(features.image, maps)


def _branch(in_channels: int, out_channels: int, scale: float, norm: Norm) -> nn.Sequential:
    half, quarter = max(1, in_channels // 2), max(1, in_channels // 4)
    layers: list[nn.Module]
    if scale == 4:
        layers = [
            nn.ConvTranspose2d(in_channels, half, 2, stride=2),
            build_norm(norm, half, affine=True),
            nn.GELU(),
            nn.ConvTranspose2d(half, quarter, 2, stride=2),
        ]
        channels = quarter
    elif scale == 2:
        layers, channels = [nn.ConvTranspose2d(in_channels, half, 2, stride=2)], half
    elif scale == 1:
        layers, channels = [], in_channels
    else:
        layers, channels = [nn.MaxPool2d(2, ceil_mode=True)], in_channels
    return nn.Sequential(
        *layers,
        nn.Conv2d(channels, out_channels, 1, bias=False),
        build_norm(norm, out_channels, affine=True),
        nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        build_norm(norm, out_channels, affine=True),
    )

"""The attention U-Net: attention in the bottleneck, one up-block for each skip, a boundary head.

Source: the article "Attention UNets for Image Segmentation" and its code,
https://github.com/dmitri-chouchkov/fashion-segmentation, which settles SiLU where the article says ReLU, and
norms without weights. Unlike there: any pyramid will do, of any size; the skip over the up-sampling interleaves
pixels (the author's reshape stacks whole channels above each other); the last widths are those of the article
and its diagram (96), the code's (192) being an option; and `default` has no norm with weights.
"""

from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from segbench.decoders.base import Decoder
from segbench.functional.tokens import crop, map_to_tokens, tokens_to_map
from segbench.layers.attention import SelfAttention
from segbench.layers.initialization import normal
from segbench.layers.local_attention import LocalAttention
from segbench.layers.norm import LocalNorm, Norm, build_norm
from segbench.types import FeatureInfo, Features, Prediction

Bottleneck = Literal["attention", "xl", "default", "none"]
ATTENTION_BLOCKS = {"attention": 3, "xl": 6}
NUM_HEADS = 4
WIDEST = 768  # the article's widest up-block; the bottleneck has twice as many channels


def position_code(grid: tuple[int, int], *, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Computes sines and cosines of columns (four channels) and rows (four more).

    Args:
        grid: `(h, w)`.
        device: Where the code is to lie.
        dtype: Its type.

    Returns:
        `(8, h, w)`: sin x, cos x, sin x/100, cos x/100, then the same of y.
    """
    y, x = (torch.arange(side, device=device, dtype=torch.float32) for side in grid)
    # The second frequency is 1/100 = 10000^(−2/4): four channels a side.
    of_y, of_x = (torch.stack([k.sin(), k.cos(), (k / 100).sin(), (k / 100).cos()]) for k in (y, x))
    return torch.cat([of_x[:, None, :].expand(4, *grid), of_y[:, :, None].expand(4, *grid)]).to(dtype)


class AttentionBlock(nn.Module):
    """Two convolutions and two attentions; the partial skips are absorbed by the activation behind them."""

    def __init__(self, channels: int, norm: Norm) -> None:
        """Builds the layers.

        Args:
            channels: `N`; keys have N/8 channels in each of 4 heads, values N/4.
            norm: Kind of norm.
        """
        super().__init__()
        self.conv1, self.conv2 = (normal(nn.Conv2d(channels, channels, 1)) for _ in range(2))
        self.norm1, self.norm2 = (build_norm(norm, channels) for _ in range(2))
        self.attention1, self.attention2 = (_attention(channels) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Mixes `(B, N, h, w)`."""
        skip, grid = x, (x.shape[-2], x.shape[-1])
        x = self.norm1(F.silu(self.conv2(F.silu(self.conv1(x)))))
        tokens = map_to_tokens(x)  # (B, h·w, N)
        tokens = F.silu(tokens + self.attention1(tokens))
        tokens = F.silu(tokens + self.attention2(tokens))
        # Not the activation but the norm ends the block, so that the sum can fall as well as rise.
        out: Tensor = self.norm2(tokens_to_map(tokens, grid)) + skip
        return out


def _attention(channels: int) -> SelfAttention:
    attention = SelfAttention(channels, NUM_HEADS, key_dim=channels // 8, value_dim=channels // 4)
    queries_and_keys = 2 * NUM_HEADS * attention.key_dim  # one projection of the author's, values another
    for weight in (
        attention.qkv.weight[:queries_and_keys],
        attention.qkv.weight[queries_and_keys:],
        attention.proj.weight,
    ):
        nn.init.xavier_normal_(weight)
    nn.init.constant_(attention.qkv.bias, 0.01)
    nn.init.constant_(attention.proj.bias, 0.01)
    return attention


class AttentionBottleneck(nn.Module):
    """Two convolutions, a fixed code of where a cell lies, and attention between all cells."""

    def __init__(self, in_channels: int, channels: int, depth: int, norm: Norm) -> None:
        """Builds the layers.

        Args:
            in_channels: Of the deepest map.
            channels: Of the map that goes out.
            depth: Attention blocks.
            norm: Kind of norm.
        """
        super().__init__()
        self.conv1 = normal(nn.Conv2d(in_channels, channels, 3, padding=1))
        self.conv2 = normal(nn.Conv2d(channels, channels, 3, padding=1))
        self.norm = build_norm(norm, channels)
        self.blocks = nn.Sequential(*(AttentionBlock(channels, norm) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        """Maps `(B, in_channels, h, w)` to `(B, channels, h, w)`."""
        x = self.norm(F.silu(self.conv2(F.silu(self.conv1(x)))))
        code = position_code((x.shape[-2], x.shape[-1]), device=x.device, dtype=x.dtype)
        out: Tensor = self.blocks(x + F.pad(code, (0, 0, 0, 0, 0, x.shape[1] - len(code))))
        return out


def skip_up(x: Tensor, out_channels: int) -> Tensor:
    """Doubles the size without weights, so that the up-sampling need only learn what changes.

    Channels become pixels where there are more of them than go out; otherwise cells are repeated. Channels that
    are missing in the end are zero, and those that are too many are dropped.

    Args:
        x: `(B, i, h, w)`.
        out_channels: `o`.

    Returns:
        `(B, o, 2h, 2w)`.
    """
    if x.shape[1] > out_channels:
        y = F.pixel_shuffle(x, 2).repeat(1, 2, 1, 1)  # (B, i/2, 2h, 2w)
    else:
        y = F.interpolate(x, scale_factor=2.0, mode="nearest")  # (B, i, 2h, 2w)
    return F.pad(y, (0, 0, 0, 0, 0, out_channels - y.shape[1]))


class UpBlock(nn.Module):
    """Doubles the size, takes the skip in, and refines by three convolutions."""

    def __init__(
        self,
        in_channels: int,
        skip_channels: int,
        out_channels: int,
        norm: Norm,
        attention_block: Literal[2, 4] | None,
    ) -> None:
        """Builds the layers.

        Args:
            in_channels: Of the map from below.
            skip_channels: Of the map from the encoder.
            out_channels: Of the map that goes out.
            norm: Kind of norm.
            attention_block: Block size of a local attention beside the first convolution, if there is one.
        """
        super().__init__()
        self.up = normal(nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2))
        # One convolution of [x, residual], in two parts so that the two need not be written side by side.
        self.of_x = normal(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.of_residual = normal(nn.Conv2d(skip_channels, out_channels, 3, padding=1, bias=False))
        self.attention = (
            LocalAttention(out_channels + skip_channels, out_channels, NUM_HEADS, attention_block)
            if attention_block
            else None
        )
        self.conv2, self.conv3 = (normal(nn.Conv2d(out_channels, out_channels, 3, padding=1)) for _ in range(2))
        self.norm0, self.norm1, self.norm2, self.norm3 = (build_norm(norm, out_channels) for _ in range(4))

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """Maps `(B, i, ⌈h/2⌉, ⌈w/2⌉)` and a skip `(B, r, h, w)` to `(B, o, h, w)`."""
        x = self.up(x) + skip_up(x, self.up.out_channels)
        x = self.norm0(F.silu(crop(x, (residual.shape[-2], residual.shape[-1]))))
        change = self.of_x(x) + self.of_residual(residual)
        if self.attention is not None:
            change = change + self.attention(torch.cat([x, residual], dim=1))
        x = self.norm1(F.silu(x + change))
        x = self.norm2(F.silu(x + self.conv2(x)))
        out: Tensor = self.norm3(F.silu(x + self.conv3(x)))
        return out


class AttentionUNet(Decoder):
    """From the deepest map of a pyramid up to the stride of its shallowest."""

    def __init__(
        self,
        info: FeatureInfo,
        num_classes: int,
        widths: list[int] | None = None,
        bottleneck: Bottleneck = "attention",
        local_attention: list[int] | None = None,
        block_size: Literal[2, 4] = 2,
        norm: Norm = "group",
        boundary: bool = True,
        grad_checkpointing: bool = False,
    ) -> None:
        """Builds bottleneck, up-blocks and heads.

        Args:
            info: Of the features that come in: each map's stride twice that of the one before.
            num_classes: `K`.
            widths: Channels of the bottleneck, then of each up-block, deep to shallow. By default the deepest
                map's channels C (at most 768) set them: 2C, C, C/2, C/4, C/8, C/8, …; behind `ConvEncoder`
                these are the article's 1536, 768, 384, 192, 96, 96. Its code has 192, 192 at the end.
            bottleneck: `attention` has 3 attention blocks, `xl` 6; `default` is two 1×1 convolutions; `none`
                hands the deepest map on as it is and heeds no width of its own.
            local_attention: Up-blocks with local attention beside their first convolution, 0 the deepest. The
                article thinks of the two or three deepest; its final model has none.
            block_size: Cells along one side of a block of local attention.
            norm: Kind of norm; `batch` makes images of a batch depend on each other.
            boundary: Whether there is a boundary head.
            grad_checkpointing: Recompute bottleneck and up-blocks in the backward pass: slower, less memory.

        Raises:
            ValueError: If the features do not form a pyramid, or widths or levels do not fit it.
        """
        super().__init__()
        ups = len(info.strides) - 1
        if not ups or any(deep != 2 * fine for fine, deep in pairwise(info.strides)):
            raise ValueError(
                f"AttentionUNet needs maps whose strides double, not strides {list(info.strides)}; "
                "put segbench.necks.pyramid.Pyramid before it"
            )
        deepest = info.channels[-1]
        widths = _default_widths(deepest, ups) if widths is None else list(widths)
        if bottleneck == "none":
            widths = [deepest, *widths[1:]]
        if len(widths) != ups + 1 or any(width < 8 or width % 8 for width in widths):
            raise ValueError(
                f"widths: needed are {ups + 1} multiples of 8, for the bottleneck and for each up-block; "
                f"got {widths}"
            )
        levels = set(local_attention or [])
        if not levels <= set(range(ups)):
            raise ValueError(f"local_attention: up-blocks are 0 to {ups - 1}; got {local_attention}")

        self.bottleneck = _bottleneck(bottleneck, deepest, widths[0], norm)
        self.blocks = nn.ModuleList(
            UpBlock(wide, skip, narrow, norm, block_size if level in levels else None)
            for level, (wide, skip, narrow) in enumerate(
                zip(widths, reversed(info.channels[:-1]), widths[1:], strict=False)
            )
        )
        self.classify = normal(nn.Conv2d(widths[-1], num_classes, 1))
        self.norm = LocalNorm(num_classes, weight=3.0)
        self.boundary = normal(nn.Conv2d(widths[-1], 1, 1)) if boundary else None
        self.grad_checkpointing = grad_checkpointing

    def forward(self, features: Features) -> Prediction:
        """Decodes from the deepest map to the stride of the last up-block."""
        *skips, deepest = features.maps
        x = self._run(self.bottleneck, deepest)
        for block, skip in zip(self.blocks, reversed(skips), strict=True):
            x = self._run(block, x, skip)
        return Prediction(self.norm(self.classify(x)), None if self.boundary is None else self.boundary(x))

    def _run(self, block: nn.Module, *maps: Tensor) -> Tensor:
        if self.grad_checkpointing and self.training:
            recomputed: Tensor = checkpoint(block, *maps, use_reentrant=False)
            return recomputed
        out: Tensor = block(*maps)
        return out


def _default_widths(deepest: int, ups: int) -> list[int]:
    widest = min(deepest, WIDEST)
    narrowing = [widest / 2 ** min(level, 3) for level in range(ups)]  # no narrower than an eighth
    return [max(8, round(width / 8) * 8) for width in (2 * widest, *narrowing)]


def _bottleneck(kind: Bottleneck, in_channels: int, channels: int, norm: Norm) -> nn.Module:
    if kind == "none":
        return nn.Identity()
    if kind == "default":
        return nn.Sequential(
            normal(nn.Conv2d(in_channels, channels, 1)),
            nn.SiLU(),
            normal(nn.Conv2d(channels, channels, 1)),
            nn.SiLU(),
            build_norm(norm, channels),
        )
    return AttentionBottleneck(in_channels, channels, ATTENTION_BLOCKS[kind], norm)

"""Local attention: every cell attends to its own block and the eight blocks around it.

Source: section 7 of "Attention UNets for Image Segmentation", and its code,
https://github.com/dmitri-chouchkov/fashion-segmentation, which settles that the penalty is subtracted after
scores are divided by √d. The field of view is lopsided by design: in a block of 2 the first cell sees two cells
to its left and three to its right.
Unlike there, sizes need not be multiples of the block, and the penalty table holds the (4b − 1)² offsets that
occur, not 16b². Queries are taken four blocks at a time: neighbouring blocks share most of their keys, so that
fewer keys are copied (four instead of nine per query), for which some scores are computed and masked.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def local_attention(query: Tensor, key: Tensor, value: Tensor, penalty: Tensor, block_size: int) -> Tensor:
    """Computes `softmax(q kᵀ / √d − penalty) v` over the 3×3 blocks around each query's own.

    Args:
        query: `(B, h, w, heads, d)`.
        key: Likewise.
        value: Likewise.
        penalty: `(heads, 4b − 1, 4b − 1)`, by `(y_k − y_q, x_k − x_q)` from `1 − 2b` to `2b − 1`.
        block_size: `b`.

    Returns:
        `(B, h, w, heads, d)`.
    """
    height, width = query.shape[1:3]
    tile = 2 * block_size  # the best of 1, 2 and 4 blocks a side on a CPU, for b = 2 and b = 4
    window = tile + 2 * block_size
    missing = (0, 0, 0, 0, 0, -width % tile, 0, -height % tile)
    ring = (0, 0, 0, 0, block_size, block_size + missing[5], block_size, block_size + missing[7])

    query = F.pad(query, missing).unfold(1, tile, tile).unfold(2, tile, tile)
    query = query.flatten(-2).transpose(-2, -1)  # (B, h/t, w/t, heads, t², d)
    key = F.pad(key, ring).unfold(1, window, tile).unfold(2, window, tile).flatten(-2)  # (…, heads, d, window²)
    value = F.pad(value, ring).unfold(1, window, tile).unfold(2, window, tile).flatten(-2)

    inside = F.pad(query.new_ones(1, height, width, 1, 1), ring).unfold(1, window, tile).unfold(2, window, tile)
    inside = inside.flatten(-2).bool()  # (1, h/t, w/t, 1, 1, window²)
    offset, near = _axis(block_size, tile, query.device)
    near = (near[:, None, :, None] & near[None, :, None, :]).flatten(2).flatten(0, 1)  # (t², window²)
    penalty = penalty[:, offset[:, None, :, None], offset[None, :, None, :]]  # (heads, t, t, window, window)
    bias = (-penalty.flatten(3).flatten(1, 2)).masked_fill(~near, -math.inf)  # (heads, t², window²)

    # A tile holds at least one cell of the map, and all its cells see all its blocks: no row is masked whole.
    scores = (query * query.shape[-1] ** -0.5) @ key + bias
    weights = scores.masked_fill(~inside, -math.inf).softmax(-1).to(value.dtype)
    mixed = weights @ value.transpose(-2, -1)  # (B, h/t, w/t, heads, t², d)
    mixed = mixed.unflatten(-2, (tile, tile)).permute(0, 1, 4, 2, 5, 3, 6)  # (B, h/t, t, w/t, t, heads, d)
    mixed = mixed.flatten(3, 4).flatten(1, 2)  # (B, H, W, heads, d), whole tiles
    cropped: Tensor = mixed[:, :height, :width]
    return cropped


def _axis(block_size: int, tile: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Numbers the offsets between queries and keys of a tile along one axis, and says which are in reach.

    Returns:
        `(t, window)` rows or columns of the penalty table, and whether the key's block touches the query's.
    """
    query = torch.arange(block_size, block_size + tile, device=device)[:, None]
    key = torch.arange(tile + 2 * block_size, device=device)[None]
    near = (query // block_size - key // block_size).abs() <= 1
    farthest = 2 * block_size - 1
    return (key - query).clamp(-farthest, farthest) + farthest, near


class LocalAttention(nn.Module):
    """Multi-head local attention between the cells of a map."""

    def __init__(
        self, in_channels: int, out_channels: int, num_heads: int = 4, block_size: Literal[2, 4] = 2
    ) -> None:
        """Builds projections and penalties.

        Args:
            in_channels: Of the map that comes in.
            out_channels: Of the map that goes out, and of queries, keys and values of all heads together.
            num_heads: Heads.
            block_size: Cells along one side of a block.

        Raises:
            ValueError: If heads do not divide the channels.
        """
        super().__init__()
        if out_channels % num_heads:
            raise ValueError(f"{out_channels} channels do not divide into {num_heads} heads")
        self.num_heads = num_heads
        self.block_size = block_size
        self.qkv = nn.Linear(in_channels, 3 * out_channels)
        self.proj = nn.Linear(out_channels, out_channels)
        for linear in (self.qkv, self.proj):
            nn.init.xavier_normal_(linear.weight)
            nn.init.constant_(linear.bias, 0.01)
        with torch.no_grad():  # the author's: next to nothing at first, beside the convolution
            self.proj.weight.mul_(0.01)
            self.proj.bias.mul_(0.01)
        offset = torch.arange(1 - 2 * block_size, 2 * block_size)
        squared: Tensor = torch.square(offset)
        self.penalty = nn.Parameter(((squared[:, None] + squared) / 16).repeat(num_heads, 1, 1))

    def no_weight_decay(self) -> set[str]:
        """Names the penalties: positions, not weights. The author lets everything decay."""
        return {"penalty"}

    def forward(self, feature_map: Tensor) -> Tensor:
        """Mixes `(B, C, h, w)` into `(B, out_channels, h, w)`."""
        qkv = self.qkv(feature_map.permute(0, 2, 3, 1))  # (B, h, w, 3 · heads · d)
        query, key, value = qkv.unflatten(-1, (3, self.num_heads, -1)).unbind(3)
        mixed = local_attention(query, key, value, self.penalty, self.block_size).flatten(3)
        out: Tensor = self.proj(mixed)
        return out.permute(0, 3, 1, 2)

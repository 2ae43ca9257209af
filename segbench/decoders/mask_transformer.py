"""Segmenter's mask transformer: one learned embedding per class, refined together with the patches.

Paper: https://arxiv.org/abs/2105.05633, §3.2. Code: https://github.com/rstrudel/segmenter.
The paper speaks of a softmax over classes before the last norm; the code, followed here, has none: cosine
scores go straight into a LayerNorm over classes. The code keeps dropout at 0.1 in the decoder, the paper says
none. Unlike the code, norms below 1e-12 are not divided by.
"""

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from segbench.decoders.base import Decoder
from segbench.functional.tokens import map_to_tokens, tokens_to_map
from segbench.layers.timm_attention import fuse_attention
from segbench.types import FeatureInfo, Features, Prediction

HEAD_WIDTH = 64  # of every Segmenter, https://arxiv.org/abs/2105.05633, §4.2


class MaskTransformer(Decoder):
    """Scores every token of the deepest map by its cosine with every class embedding."""

    def __init__(
        self,
        info: FeatureInfo,
        num_classes: int,
        embed_dim: int | None = None,
        depth: int = 2,
        num_heads: int | None = None,
        mlp_ratio: float = 4.0,
        dropout: float = 0.1,
        drop_path_rate: float = 0.0,
    ) -> None:
        """Builds `depth` transformer blocks as wide as the encoder.

        Args:
            info: Of the features that come in; the deepest map is used.
            num_classes: `K`.
            embed_dim: Width `d` of the decoder; the encoder's own by default.
            depth: Blocks, the paper's M; Segmenter has 2, but 1 in its large model for Cityscapes.
            num_heads: Attention heads; by default one for every 64 channels.
            mlp_ratio: Hidden width of the feed-forward layers over `embed_dim`.
            dropout: In attention and feed-forward layers.
            drop_path_rate: Stochastic depth, rising linearly from 0 to this rate.

        Raises:
            ValueError: If the width does not divide into the heads, or a number is out of range.
        """
        super().__init__()
        width = info.channels[-1] if embed_dim is None else embed_dim
        heads = max(1, width // HEAD_WIDTH) if num_heads is None else num_heads
        if min(width, heads) < 1 or not mlp_ratio * width >= 1:
            raise ValueError(
                "MaskTransformer: embed_dim, num_heads and mlp_ratio must be positive; "
                f"got {width}, {heads} and {mlp_ratio}"
            )
        if width % heads:
            raise ValueError(f"MaskTransformer: embed_dim {width} does not divide into num_heads {heads}")
        if depth < 0 or not 0 <= dropout < 1 or not 0 <= drop_path_rate < 1:
            raise ValueError(
                "MaskTransformer: depth must be at least 0, dropout and drop_path_rate in [0, 1); "
                f"got {depth}, {dropout} and {drop_path_rate}"
            )
        self.proj_dec = nn.Linear(info.channels[-1], width)
        self.cls_emb = nn.Parameter(torch.empty(1, num_classes, width))
        rates = [drop_path_rate * index / max(1, depth - 1) for index in range(depth)]
        self.blocks = nn.Sequential(
            *(
                Block(
                    width,
                    heads,
                    mlp_ratio,
                    qkv_bias=True,
                    proj_drop=dropout,
                    attn_drop=dropout,
                    drop_path=rate,
                    norm_layer=nn.LayerNorm,  # ε = 1e-5 as in official Segmenter; timm's own has 1e-6
                )
                for rate in rates
            )
        )
        fuse_attention(self.blocks)
        self.decoder_norm = nn.LayerNorm(width)
        self.proj_patch = nn.Parameter(torch.empty(width, width))
        self.proj_classes = nn.Parameter(torch.empty(width, width))
        self.mask_norm = nn.LayerNorm(num_classes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Starts as the official code does: N(0, 0.02²) but for the two bare projections, N(0, 1/d)."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.cls_emb, std=0.02)
        for projection in (self.proj_patch, self.proj_classes):
            nn.init.normal_(projection, std=len(projection) ** -0.5)

    def no_weight_decay(self) -> set[str]:
        """Exempts the class embeddings from weight decay, as official Segmenter does."""
        return {"cls_emb"}

    def forward(self, features: Features) -> Prediction:
        """Returns logits `(B, K, h, w)`: cosine similarities of patch and class tokens."""
        deepest = features.maps[-1]
        patches = self.proj_dec(map_to_tokens(deepest))  # (B, N, d)
        classes = self.cls_emb.expand(patches.shape[0], -1, -1)  # (B, K, d)
        # z_M, c = the patches' and the classes' tokens after M blocks over both; classes have no position.
        tokens = self.decoder_norm(self.blocks(torch.cat([patches, classes], dim=1)))  # (B, N + K, d)
        patches, classes = tokens.split([patches.shape[1], classes.shape[1]], dim=1)
        masks = cosine(patches @ self.proj_patch, classes @ self.proj_classes)  # (B, N, K)
        scores = self.mask_norm(masks)
        return Prediction(tokens_to_map(scores, (deepest.shape[-2], deepest.shape[-1])))


def cosine(patches: Tensor, classes: Tensor) -> Tensor:
    """Multiplies L2-normalised patches with L2-normalised classes: `Masks(z, c) = z cᵀ`, equation 2.

    Args:
        patches: `(B, N, d)`.
        classes: `(B, K, d)`.

    Returns:
        `(B, N, K)` in [-1, 1].
    """
    return F.normalize(patches, dim=-1) @ F.normalize(classes, dim=-1).transpose(1, 2)

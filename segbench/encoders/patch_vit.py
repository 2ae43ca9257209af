"""The encoder half of the patch U-Net: a small transformer, and a bottleneck over all its tokens.

Source: the report "Vision Transformers for Segmentation"; it is not published, and no code has a lasting
address. Its figure of 60,927,264 parameters, together with `PatchUNet`, is met, and settles the bottleneck's
widths, which it does not state: no other pair of widths below 4000 gives that figure. GELU is a guess, and so
is that the last layer of an MLP has it too, as in the example that the report began with:
https://keras.io/examples/vision/image_classification_with_vision_transformer/.
"""

import math

import torch
from torch import Tensor, nn

from segbench.encoders.base import DepthGroup, Encoder
from segbench.functional.tokens import pad_to_multiple, tokens_to_map
from segbench.layers.attention import SelfAttention
from segbench.layers.keras_linear import mlp
from segbench.layers.patch_tokens import PatchTokens
from segbench.types import FeatureInfo, Features


class Block(nn.Module):
    """Attention and MLP, each behind a norm and beside a residual."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        key_dim: int,
        hidden: tuple[int, ...],
        attention_dropout: float,
        mlp_dropout: float,
    ) -> None:
        """Builds the layers.

        Args:
            dim: Width of the tokens.
            num_heads: Heads.
            key_dim: Width of one head.
            hidden: Widths of the MLP's hidden layers.
            attention_dropout: Share of attention weights set to zero in training.
            mlp_dropout: Share of the MLP's values set to zero in training.
        """
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attention = SelfAttention(dim, num_heads, key_dim, dropout=attention_dropout)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = mlp(dim, (*hidden, dim), nn.GELU, mlp_dropout)
        # Keras holds these weights as (dim, heads, key_dim) and (heads, key_dim, dim), and its Glorot takes the
        # first axis for a convolution's window: limits are narrower than those of a plain matrix.
        for linear, fans in (
            (self.attention.qkv, dim * (num_heads + key_dim)),
            (self.attention.proj, num_heads * (key_dim + dim)),
        ):
            nn.init.uniform_(linear.weight, -math.sqrt(6 / fans), math.sqrt(6 / fans))
            nn.init.zeros_(linear.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Mixes tokens `(B, N, C)`."""
        tokens = tokens + self.attention(self.norm1(tokens))
        mixed: Tensor = tokens + self.mlp(self.norm2(tokens))
        return mixed


class PatchViT(Encoder):
    """A transformer for images of one size, whose features of a patch depend on all patches at once."""

    fixed_size = True
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        img_size: tuple[int, int],
        patch_size: int = 16,
        embed_dim: int = 128,
        pos_dim: int = 8,
        depth: int = 4,
        num_heads: int = 8,
        key_dim: int = 128,
        hidden: tuple[int, ...] = (512, 1024),
        attention_dropout: float = 0.2,
        mlp_dropout: float = 0.4,
        bottleneck: tuple[int, ...] = (1024, 2048),
        bottleneck_dropout: float = 0.2,
        feature_dim: int = 32,
    ) -> None:
        """Builds the transformer.

        Args:
            img_size: `(height, width)` of all images; the bottleneck grows with it.
            patch_size: `P`.
            embed_dim: Width of the projection of a patch.
            pos_dim: Width of its position, which is appended.
            depth: Transformer blocks.
            num_heads: Heads of the attention.
            key_dim: Width of one head, however wide the tokens are.
            hidden: Widths of a block's hidden layers.
            attention_dropout: Share of attention weights set to zero in training.
            mlp_dropout: Share of values set to zero in training behind each layer of MLPs and bottleneck.
            bottleneck: Widths of the bottleneck's hidden layers.
            bottleneck_dropout: Share of the tokens' values set to zero in training before the bottleneck.
            feature_dim: Width of the features of a patch.

        Raises:
            ValueError: If a size is not positive.
        """
        super().__init__()
        sizes = {
            "img_size": min(img_size),
            "patch_size": patch_size,
            "embed_dim": embed_dim,
            "pos_dim": pos_dim,
            "num_heads": num_heads,
            "key_dim": key_dim,
            "hidden": min(hidden, default=1),
            "bottleneck": min(bottleneck, default=1),
            "feature_dim": feature_dim,
        }
        if wrong := [f"{name}={size}" for name, size in sizes.items() if size < 1]:
            raise ValueError(f"PatchViT needs sizes and widths of 1 or more; got {', '.join(wrong)}")
        self.img_size = (img_size[0], img_size[1])
        self.patch_size = patch_size
        grid = (math.ceil(img_size[0] / patch_size), math.ceil(img_size[1] / patch_size))
        num_tokens, dim = grid[0] * grid[1], embed_dim + pos_dim
        self.patches = PatchTokens(patch_size, grid, embed_dim, pos_dim)
        self.blocks = nn.Sequential(
            *(Block(dim, num_heads, key_dim, hidden, attention_dropout, mlp_dropout) for _ in range(depth))
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.bottleneck = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(bottleneck_dropout),
            *mlp(num_tokens * dim, (*bottleneck, num_tokens * feature_dim), nn.GELU, mlp_dropout),
        )
        self.register_buffer("pixel_mean", torch.tensor(0.0), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(255.0), persistent=False)
        self.info = FeatureInfo(channels=(feature_dim,), strides=(patch_size,), grid=grid)

    def normalize(self, image: Tensor) -> Tensor:
        """Returns normalised pixels, padded to a multiple of the stride."""
        return pad_to_multiple((image - self.pixel_mean) / self.pixel_std, self.patch_size)

    def forward(self, image: Tensor) -> Features:
        """Returns the maps of images of `img_size`."""
        if tuple(image.shape[-2:]) != self.img_size:
            height, width = self.img_size
            raise ValueError(
                f"PatchViT was built for images of {height}×{width}, not {image.shape[-2]}×{image.shape[-1]}; "
                f"set window and stride to [{height}, {width}], and let train_transforms end in that size"
            )
        image = self.normalize(image)
        tokens = self.norm(self.blocks(self.patches(image)))  # (B, N, C)
        codes = self.bottleneck(tokens)  # (B, N·feature_dim)
        features = codes.unflatten(1, (tokens.shape[1], -1))
        return Features(image, (tokens_to_map(features, self.info.grid),))

    def depth_groups(self) -> list[DepthGroup]:
        """Returns the parameters grouped into patch embedding, blocks and the rest."""
        groups = [DepthGroup(depth, []) for depth in range(len(self.blocks) + 2)]
        for name, parameter in self.named_parameters():
            room, index, *_ = name.split(".")
            depth = {"patches": 0, "blocks": int(index) + 1 if index.isdigit() else 0}.get(room, -1)
            groups[depth].parameters.append((name, parameter))
        return groups

    def no_weight_decay(self) -> set[str]:
        """Returns the position embedding, which is exempt from weight decay."""
        return {f"patches.{name}" for name in self.patches.no_weight_decay()}

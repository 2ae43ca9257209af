"""Raw patches as tokens, with their position appended instead of added.

Paper: https://arxiv.org/abs/2010.11929, which adds the position to the patch. The patch U-Net, in encoder and
decoder alike, reads that paper's diagram as a concatenation.
"""

import torch
from torch import Tensor, nn

from segbench.functional.patches import image_to_patches
from segbench.functional.tokens import resample_grid
from segbench.layers.keras_linear import keras_linear


class PatchTokens(nn.Module):
    """`[E · patch, position]` for every patch."""

    def __init__(self, patch_size: int, grid: tuple[int, int], dim: int, pos_dim: int) -> None:
        """Builds projection and position embedding.

        Args:
            patch_size: `P`.
            grid: `(h, w)` for which positions are learned.
            dim: Width of the projection.
            pos_dim: Width of the position.
        """
        super().__init__()
        self.patch_size = patch_size
        self.grid = grid
        self.project = keras_linear(patch_size * patch_size * 3, dim)
        self.position = nn.Parameter(torch.empty(1, grid[0] * grid[1], pos_dim))
        nn.init.uniform_(self.position, -0.05, 0.05)  # Keras's Embedding

    def no_weight_decay(self) -> set[str]:
        """Names the positions, which weight decay leaves alone."""
        return {"position"}

    def forward(self, image: Tensor) -> Tensor:
        """Turns patches into tokens.

        Args:
            image: `(B, 3, H, W)`, both sides multiples of `patch_size`; on another grid than that of the
                constructor positions are resampled.

        Returns:
            `(B, N, dim + pos_dim)`.
        """
        grid = (image.shape[-2] // self.patch_size, image.shape[-1] // self.patch_size)
        projected = self.project(image_to_patches(image, self.patch_size))  # (B, N, dim)
        position = resample_grid(self.position, self.grid, grid, "bilinear")  # (1, N, pos_dim)
        return torch.cat([projected, position.expand(image.shape[0], -1, -1)], dim=-1)

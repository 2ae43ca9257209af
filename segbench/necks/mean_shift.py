"""Mean shift on tokens: every token moves to a weighted mean of all tokens.

Source: the MeanShifter thesis, and its author's code (https://github.com/JohnnyKaz/mmsegmentation), which
settles that one projection with bias is shared by all iterations, and that there is neither residual nor norm.
Unlike there, the N×N matrix of weights is never written out where the backend of
`scaled_dot_product_attention` can avoid it; and the classifier behind it starts as Segmenter's (see
`segbench.decoders.linear`), not from torch's default, so that the linear reference differs in the shift alone.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from segbench.functional.tokens import map_to_tokens, tokens_to_map
from segbench.necks.base import IterativeNeck
from segbench.types import FeatureInfo, Features

# Up to here the N×N matrix is cheap and padding takes longer than it saves: with 64 of 192 channels on two CPU
# cores it took 1.4 times as long at 1024 tokens, and 0.78 times at 4096, there with a tenth of the memory.
MANY_TOKENS = 2048


def mean_shift(tokens: Tensor, projected: Tensor) -> Tensor:
    """Moves every token once: `softmax(R Rᵀ / √d) x`.

    Memory-efficient kernels want keys and values of one width. Zeros appended to the narrower side change
    neither the dot products nor the kept part of the result, so they are appended where the matrix would be
    large.

    Args:
        tokens: `x`, `(B, N, C)`.
        projected: `R`, `(B, N, d)`.

    Returns:
        The moved tokens `(B, N, C)`.
    """
    width, dim = tokens.shape[-1], projected.shape[-1]
    if width != dim and tokens.shape[1] > MANY_TOKENS:
        common = max(width, dim)
        projected, padded = F.pad(projected, (0, common - dim)), F.pad(tokens, (0, common - width))
    else:
        padded = tokens
    # One head: kernels want (B, heads, N, width).
    query, value = projected.unsqueeze(1), padded.unsqueeze(1)
    moved = F.scaled_dot_product_attention(query, query, value, scale=dim**-0.5)
    return moved.squeeze(1)[..., :width]


class MeanShift(IterativeNeck):
    """Mean shift of the deepest map's tokens; the other maps pass untouched."""

    def __init__(
        self, info: FeatureInfo, iterations: int = 1, dim: int = 192, bias: bool = True, normalize: bool = False
    ) -> None:
        """Builds the shared projection.

        Args:
            info: Of the features that come in.
            iterations: How often tokens are moved (the thesis's L_ms). It holds no weights and may be changed
                after training (L′_ms).
            dim: Width of the projection in which similarity is measured (the thesis's d_ms).
            bias: Whether the projection has a bias, as the author's code has and the thesis's equation has not.
            normalize: Whether one shared LayerNorm follows every shift, as in the author's Segmenter fork.

        Raises:
            ValueError: If `dim` is not positive or `iterations` is negative.
        """
        super().__init__()
        if dim < 1 or iterations < 0:
            raise ValueError(f"MeanShift needs dim ≥ 1 and iterations ≥ 0; got {dim} and {iterations}")
        self.info = info
        self.iterations = iterations
        self.project = nn.Linear(info.channels[-1], dim, bias=bias)
        nn.init.trunc_normal_(self.project.weight, std=0.02)
        if bias:
            nn.init.zeros_(self.project.bias)
        self.norm = nn.LayerNorm(info.channels[-1]) if normalize else nn.Identity()

    def forward(self, features: Features) -> Features:
        """Moves the tokens of the deepest map; see the contract."""
        *shallow, deepest = features.maps
        tokens = map_to_tokens(deepest)  # (B, N, C)
        for _ in range(self.iterations):
            # The projection sees the tokens where they are now, not where they began.
            tokens = self.norm(mean_shift(tokens, self.project(tokens)))
        moved = tokens_to_map(tokens, (deepest.shape[-2], deepest.shape[-1]))
        return Features(features.image, (*shallow, moved))

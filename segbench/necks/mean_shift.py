"""Mean shift on tokens: every token moves to a weighted mean of all tokens.

Source: the MeanShifter thesis, and its author's code (https://github.com/JohnnyKaz/mmsegmentation), which
settles that one projection with bias is shared by all iterations, and that there is neither residual nor norm.
Unlike there, the N×N matrix of weights is not written out where N is large (see
`segbench.kernels.mean_shift`); and the classifier behind it starts as Segmenter's (see
`segbench.decoders.linear`), not from torch's default, so that the linear reference differs in the shift alone.
Norm, temperature and the symmetric kernel are options beside the thesis, all of them off.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from segbench.functional.tokens import map_to_tokens, tokens_to_map
from segbench.kernels.mean_shift import mean_shift
from segbench.necks.base import IterativeNeck
from segbench.types import FeatureInfo, Features

# After so many steps rows of 1200 tokens sum to 1 within 3e-4 where they converge most slowly (similarities of
# standard deviation 1, tried from 0.3 to 4).
SINKHORN_STEPS = 10


def symmetric_mean_shift(tokens: Tensor, projected: Tensor, temperature: float = 1.0) -> Tensor:
    """Moves every token once by weights that are symmetric: `U exp(R Rᵀ / τ√d) U x`.

    The diagonal `U` scales rows and columns alike until both sum to 1: Sinkhorn's algorithm in the form that
    keeps symmetry (https://arxiv.org/abs/2110.11773 uses the plain form in transformers). The N×N matrix is
    written out, in float32.

    Args:
        tokens: `x`, `(B, N, C)`.
        projected: `R`, `(B, N, d)`.
        temperature: `τ`.

    Returns:
        The moved tokens `(B, N, C)`.
    """
    similarity = (projected @ projected.transpose(1, 2)).float() * (projected.shape[-1] ** -0.5 / temperature)
    log_u = torch.zeros_like(similarity[..., :1])  # (B, N, 1)
    for _ in range(SINKHORN_STEPS):
        # u ← √(u / (S u)): the geometric mean of the old scale and the one at which rows would sum to 1.
        log_u = (log_u - torch.logsumexp(similarity + log_u.transpose(1, 2), dim=2, keepdim=True)) / 2
    weights = torch.exp(similarity + log_u + log_u.transpose(1, 2))  # (B, N, N)
    return weights.to(tokens.dtype) @ tokens


class MeanShift(IterativeNeck):
    """Mean shift of the deepest map's tokens; the other maps pass untouched."""

    def __init__(
        self,
        info: FeatureInfo,
        iterations: int = 1,
        dim: int = 192,
        bias: bool = True,
        normalize: bool = False,
        kernel: Literal["softmax", "symmetric"] = "softmax",
        temperature: float = 1.0,
    ) -> None:
        """Builds the shared projection.

        Args:
            info: Of the features that come in.
            iterations: How often tokens are moved (the thesis's L_ms). It holds no weights and may be changed
                after training (L′_ms).
            dim: Width of the projection in which similarity is measured (the thesis's d_ms).
            bias: Whether the projection has a bias, as the author's code has and the thesis's equation has not.
            normalize: Whether one shared LayerNorm follows every shift. Departs from the thesis; the author's
                Segmenter fork has it.
            kernel: "softmax" normalises rows, as the thesis computes. "symmetric" normalises rows and columns,
                so that the weights are symmetric, as the thesis says they are but row softmax does not leave
                them; they hold N×N numbers in memory.
            temperature: `τ`, by which similarities are divided before the exponential; the thesis has 1. Below
                1 tokens listen to their nearest only, far above 1 all move to the mean.

        Raises:
            ValueError: If `dim` or `temperature` is not positive, or `iterations` is negative.
        """
        super().__init__()
        if dim < 1 or iterations < 0 or not 0 < temperature < math.inf:
            raise ValueError(
                "MeanShift needs dim ≥ 1, iterations ≥ 0 and temperature > 0; "
                f"got {dim}, {iterations} and {temperature}"
            )
        self.info = info
        self.iterations = iterations
        self.temperature = temperature
        self._shift = mean_shift if kernel == "softmax" else symmetric_mean_shift
        self.project = nn.Linear(info.channels[-1], dim, bias=bias)
        nn.init.trunc_normal_(self.project.weight, std=0.02)
        if bias:
            nn.init.zeros_(self.project.bias)
        self.norm = nn.LayerNorm(info.channels[-1]) if normalize else nn.Identity()

    def forward(self, features: Features) -> Features:
        """Replaces the deepest map by its tokens after the mean shifts."""
        *shallow, deepest = features.maps
        tokens = map_to_tokens(deepest)  # (B, N, C)
        for _ in range(self.iterations):
            # The projection sees the tokens where they are now, not where they began.
            tokens = self.norm(self._shift(tokens, self.project(tokens), self.temperature))
        moved = tokens_to_map(tokens, (deepest.shape[-2], deepest.shape[-1]))
        return Features(features.image, (*shallow, moved))

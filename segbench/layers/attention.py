"""Multi-head self-attention whose heads may be of any width, for keys and for values.

Paper: https://arxiv.org/abs/1706.03762. Neither torch's nor timm's module lets the heads be wider than their
share of the tokens, as Keras's `key_dim` does, or values wider than keys; two of the decoders here need both.
"""

from torch import Tensor, nn

from segbench.kernels.attention import attention


class SelfAttention(nn.Module):
    """`softmax(Q Kᵀ / √d) V` in every head, then one linear layer over all heads."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        key_dim: int | None = None,
        value_dim: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        """Builds the projections.

        Args:
            dim: Width of the tokens, in and out.
            num_heads: Heads.
            key_dim: Width of queries and keys in one head; `dim / num_heads` by default.
            value_dim: Width of values in one head; as the keys by default.
            dropout: Share of attention weights set to zero in training.

        Raises:
            ValueError: If `dim` is not a multiple of `num_heads` and `key_dim` is not given.
        """
        super().__init__()
        if key_dim is None and dim % num_heads:
            raise ValueError(f"{dim} channels do not divide into {num_heads} heads; give key_dim")
        self.num_heads = num_heads
        self.key_dim = key_dim or dim // num_heads
        self.value_dim = value_dim or self.key_dim
        self.dropout = dropout
        self.qkv = nn.Linear(dim, num_heads * (2 * self.key_dim + self.value_dim))
        self.proj = nn.Linear(num_heads * self.value_dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Mixes tokens.

        Args:
            tokens: `(B, N, C)`.

        Returns:
            `(B, N, C)`.
        """
        keys = self.num_heads * self.key_dim
        query, key, value = self.qkv(tokens).split([keys, keys, self.num_heads * self.value_dim], dim=-1)
        mixed = attention(
            self._heads(query),
            self._heads(key),
            self._heads(value),
            dropout=self.dropout if self.training else 0.0,
        )  # (B, heads, N, value_dim)
        out: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return out

    def _heads(self, tokens: Tensor) -> Tensor:
        batch, length, _ = tokens.shape
        return tokens.view(batch, length, self.num_heads, -1).transpose(1, 2)  # (B, heads, N, width)

"""timm's attention with our kernel in it."""

from timm.models.vision_transformer import Attention  # type: ignore[attr-defined]  # moved, not exported
from torch import Tensor, nn

from segbench.kernels.attention import attention


class FusedAttention(Attention):
    """timm's `Attention` as it is built and stored there; where it is fused, by `segbench.kernels.attention`.

    Where `fused_attn` is unset, or a mask or a gate is wanted, timm's own forward pass is taken.
    """

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Mixes tokens.

        Args:
            x: `(B, N, C)`.
            attn_mask: As timm takes it.
            is_causal: Likewise.

        Returns:
            `(B, N, C)`.
        """
        if is_causal:  # not every timm knows it
            causal: Tensor = super().forward(x, attn_mask=attn_mask, is_causal=True)
            return causal
        if attn_mask is not None or not self.fused_attn or getattr(self, "gate", None) is not None:
            plain: Tensor = super().forward(x, attn_mask=attn_mask)
            return plain
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # (3, B, heads, N, d)
        query, key, value = qkv.unbind(0)
        dropout = self.attn_drop.p if self.training else 0.0
        mixed = attention(self.q_norm(query), self.k_norm(key), value, dropout)
        out: Tensor = self.proj_drop(self.proj(self.norm(mixed.transpose(1, 2).flatten(2))))
        return out


def fuse_attention(module: nn.Module) -> None:
    """Lets every plain `Attention` of timm inside a module compute as `FusedAttention`.

    Args:
        module: Changed in place; names of parameters stay, as do subclasses and other kinds of attention.
    """
    for part in module.modules():
        if type(part) is Attention:
            part.__class__ = FusedAttention

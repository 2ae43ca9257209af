"""timm's attention with our kernel in it is timm's attention."""

import copy

import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Attention, Block
from torch import nn

from segbench.kernels import attention as kernel
from segbench.kernels import native
from segbench.layers.timm_attention import FusedAttention, fuse_attention


@pytest.mark.parametrize("options", [{}, {"qk_norm": True, "norm_layer": nn.LayerNorm, "scale_norm": True}])
def test_it_computes_what_timm_computes_and_keeps_its_weights(options, monkeypatch):
    timms = Attention(48, num_heads=3, qkv_bias=True, **options)
    ours = nn.Sequential(copy.deepcopy(timms))
    fuse_attention(ours)
    assert type(ours[0]) is FusedAttention
    assert type(timms) is Attention
    ours[0].load_state_dict(timms.state_dict())
    tokens = torch.randn(2, 30, 48)
    expected = timms(tokens)
    for least in (kernel.LEAST_TOKENS, 1):
        monkeypatch.setattr(kernel, "LEAST_TOKENS", least)
        torch.testing.assert_close(ours(tokens), expected)
    mask = torch.randn(2, 1, 30, 30)
    torch.testing.assert_close(ours[0](tokens, attn_mask=mask), timms(tokens, attn_mask=mask))
    with torch.inference_mode():
        torch.testing.assert_close(copy.deepcopy(ours)(tokens), expected)


@pytest.mark.skipif(not native.available(), reason="no C compiler")
def test_a_block_in_training_goes_by_our_kernel_with_dropout(monkeypatch):
    def fail(*_, **__):
        raise AssertionError("torch's attention was called")

    monkeypatch.delenv("SEGBENCH_KERNELS", raising=False)
    monkeypatch.setattr(F, "scaled_dot_product_attention", fail)
    block = Block(32, 2, attn_drop=0.5)
    fuse_attention(block)
    tokens = torch.randn(1, kernel.LEAST_TOKENS_WITH_DROPOUT, 32)
    assert not torch.equal(block(tokens), block(tokens))
    with pytest.raises(AssertionError):
        block(tokens[:, :20])
    block.attn.fused_attn = False  # as the plain baseline wants it
    block(tokens)


def test_other_kinds_of_attention_stay():
    class Other(Attention):
        pass

    other = Other(8, num_heads=2)
    fuse_attention(other)
    assert type(other) is Other

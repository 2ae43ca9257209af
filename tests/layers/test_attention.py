import pytest
import torch

from segbench.layers.attention import SelfAttention


@pytest.mark.parametrize(("key_dim", "value_dim"), [(None, None), (5, None), (5, 7)])
def test_self_attention_is_the_sum_over_tokens_written_out(key_dim, value_dim):
    torch.manual_seed(0)
    attention = SelfAttention(6, num_heads=2, key_dim=key_dim, value_dim=value_dim).double().eval()
    tokens = torch.randn(2, 4, 6, dtype=torch.float64)
    d, v = attention.key_dim, attention.value_dim
    expected = torch.zeros_like(tokens)
    for b in range(2):
        qkv = [attention.qkv.weight @ token + attention.qkv.bias for token in tokens[b]]
        for n in range(4):
            heads = []
            for head in range(2):
                query = qkv[n][head * d : head * d + d]
                keys = [row[2 * d + head * d : 2 * d + head * d + d] for row in qkv]
                values = [row[4 * d + head * v : 4 * d + head * v + v] for row in qkv]
                weights = torch.stack([(query @ key) / d**0.5 for key in keys]).exp()
                heads.append(sum(w * value for w, value in zip(weights / weights.sum(), values, strict=True)))
            expected[b, n] = attention.proj.weight @ torch.cat(heads) + attention.proj.bias
    torch.testing.assert_close(attention(tokens), expected)


def test_dropout_acts_in_training_only():
    attention = SelfAttention(8, num_heads=2, dropout=0.5)
    tokens = torch.randn(1, 6, 8)
    assert not torch.equal(attention(tokens), attention(tokens))
    attention.eval()
    assert torch.equal(attention(tokens), attention(tokens))


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="10 channels do not divide into 4 heads"):
        SelfAttention(10, num_heads=4)

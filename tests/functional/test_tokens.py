"""Tokens, maps and padding."""

import torch

from segbench.functional.tokens import map_to_tokens, pad_to_multiple, resample_grid, tokens_to_map


def test_tokens_run_in_rows():
    feature_map = torch.arange(6.0).reshape(1, 1, 2, 3)
    assert map_to_tokens(feature_map).flatten().tolist() == [0, 1, 2, 3, 4, 5]
    assert torch.equal(tokens_to_map(map_to_tokens(feature_map), (2, 3)), feature_map)


def test_padding_at_bottom_and_right():
    image = torch.ones(1, 3, 5, 9)
    padded = pad_to_multiple(image, (4, 8), value=7.0)
    assert padded.shape == (1, 3, 8, 16)
    assert torch.equal(padded[..., :5, :9], image)
    assert (padded[..., 5:, :] == 7).all()
    assert pad_to_multiple(padded, 8) is padded


def test_grids_are_compared_not_token_counts():
    embedding = torch.randn(1, 64, 3)
    assert resample_grid(embedding, (8, 8), (8, 8), "bilinear") is embedding
    assert not torch.equal(resample_grid(embedding, (8, 8), (4, 16), "bilinear"), embedding)

"""Local attention cell by cell, as the article says it in words."""

import torch
from torch import Tensor


def slow_local_attention(query: Tensor, key: Tensor, value: Tensor, penalty: Tensor, block_size: int) -> Tensor:
    """All of `(B, h, w, heads, d)`; `penalty[head, 2b − 1 + dy, 2b − 1 + dx]` is subtracted from scores."""
    batch, height, width, heads, dim = query.shape
    zero = 2 * block_size - 1
    output = torch.zeros_like(value)
    for b in range(batch):
        for y in range(height):
            for x in range(width):
                top, left = (y // block_size - 1) * block_size, (x // block_size - 1) * block_size
                rows = [row for row in range(top, top + 3 * block_size) if 0 <= row < height]
                columns = [column for column in range(left, left + 3 * block_size) if 0 <= column < width]
                for head in range(heads):
                    scores, values = [], []
                    for row in rows:
                        for column in columns:
                            similar = query[b, y, x, head] @ key[b, row, column, head] / dim**0.5
                            scores.append(similar - penalty[head, zero + row - y, zero + column - x])
                            values.append(value[b, row, column, head])
                    weights = torch.stack(scores).softmax(0)
                    output[b, y, x, head] = weights @ torch.stack(values)
    return output

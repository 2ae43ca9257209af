"""Sizes that are variables of a graph being traced.

`torch.export` runs the model's own Python once. A branch on such a size would hold the graph to the sizes that
take the same branch, so code that export reaches asks first.
"""

import torch


def is_free(*sizes: int) -> bool:
    """Returns whether a size is a variable.

    Args:
        sizes: Of tensors, or computed from them.

    Returns:
        False outside `torch.export`, and there for sizes that are fixed.
    """
    return any(isinstance(size, torch.SymInt) for size in sizes)

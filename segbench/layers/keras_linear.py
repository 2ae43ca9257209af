"""Linear layers that start as Keras's `Dense` does, alone or in a row with activation and dropout.

Paper: https://proceedings.mlr.press/v9/glorot10a.html. Code: https://github.com/keras-team/keras.
"""

from collections.abc import Callable, Iterable

from torch import nn


def keras_linear(in_dim: int, out_dim: int) -> nn.Linear:
    """Builds a linear layer with Glorot's uniform weights and no bias to begin with.

    Args:
        in_dim: Width in.
        out_dim: Width out.

    Returns:
        The layer.
    """
    linear = nn.Linear(in_dim, out_dim)
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def mlp(
    in_dim: int, widths: Iterable[int], activation: Callable[[], nn.Module], dropout: float
) -> nn.Sequential:
    """Builds layers in a row, each followed by activation and dropout, the last one too.

    Args:
        in_dim: Width in.
        widths: Width of each layer.
        activation: Builds the activation.
        dropout: Share of values set to zero in training.

    Returns:
        The layers.
    """
    layers = nn.Sequential()
    for width in widths:
        layers.extend([keras_linear(in_dim, width), activation(), nn.Dropout(dropout)])
        in_dim = width
    return layers

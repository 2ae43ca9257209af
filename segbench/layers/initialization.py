"""The starting weights of the attention U-Net, which its encoder and its decoder share."""

from typing import TypeVar

from torch import nn

Convolution = TypeVar("Convolution", nn.Conv2d, nn.ConvTranspose2d)


def normal(convolution: Convolution) -> Convolution:
    """Draws weight and bias from N(0, 0.1²), as https://github.com/dmitri-chouchkov/fashion-segmentation does.

    Args:
        convolution: Changed in place.

    Returns:
        The same convolution.
    """
    nn.init.normal_(convolution.weight, std=0.1)
    if convolution.bias is not None:
        nn.init.normal_(convolution.bias, std=0.1)
    return convolution

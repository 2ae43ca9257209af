"""One linear layer for every token: Segmenter's baseline decoder.

Paper: https://arxiv.org/abs/2105.05633. Code: https://github.com/rstrudel/segmenter.
"""

import torch.nn.functional as F
from torch import nn

from segbench.decoders.base import Decoder
from segbench.types import FeatureInfo, Features, Prediction


class LinearDecoder(Decoder):
    """Classifies every cell of the deepest map on its own."""

    def __init__(self, info: FeatureInfo, num_classes: int) -> None:
        """Builds the classifier.

        Args:
            info: Of the features that come in; the deepest map is used.
            num_classes: `K`.
        """
        super().__init__()
        self.head = nn.Linear(info.channels[-1], num_classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, features: Features) -> Prediction:
        """Returns logits `(B, K, h, w)` of the deepest map."""
        # A 1×1 convolution is the same product and takes the map as it lies.
        return Prediction(F.conv2d(features.maps[-1], self.head.weight[..., None, None], self.head.bias))

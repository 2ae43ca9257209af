"""Decoders that work at first sight, each with one fault of the kind that costs its author a day."""

import torch
from torch import nn

from segbench.decoders.base import Decoder
from segbench.types import FeatureInfo, Features, Prediction


class Sound(Decoder):
    """One convolution; the others add a fault to it."""

    def __init__(self, info: FeatureInfo, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Conv2d(info.channels[-1], num_classes, 1)

    def forward(self, features: Features) -> Prediction:
        return Prediction(self.head(features.maps[-1]))


class UnusedParameter(Sound):
    def __init__(self, info: FeatureInfo, num_classes: int) -> None:
        super().__init__(info, num_classes)
        self.auxiliary = nn.Conv2d(info.channels[-1], num_classes, 1)


class DetachedEncoder(Sound):
    def forward(self, features: Features) -> Prediction:
        return Prediction(self.head(features.maps[-1].detach()))


class FixedSize(Sound):
    """A position embedding that is never resampled."""

    def __init__(self, info: FeatureInfo, num_classes: int) -> None:
        super().__init__(info, num_classes)
        self.position = nn.Parameter(torch.zeros(1, info.channels[-1], *info.grid))

    def forward(self, features: Features) -> Prediction:
        return Prediction(self.head(features.maps[-1] + self.position))


class FixedOutput(Sound):
    """Logits of one size, whatever comes in: nothing raises, only the scores are poor."""

    def __init__(self, info: FeatureInfo, num_classes: int) -> None:
        super().__init__(info, num_classes)
        self.grid = info.grid

    def forward(self, features: Features) -> Prediction:
        return Prediction(nn.functional.interpolate(self.head(features.maps[-1]), self.grid, mode="bilinear"))


class PaddedGrid(Sound):
    """Made even for a U-Net's sake, and never cropped again."""

    def forward(self, features: Features) -> Prediction:
        deepest = features.maps[-1]
        height, width = deepest.shape[-2:]
        return Prediction(self.head(nn.functional.pad(deepest, (0, width % 2, 0, height % 2))))


class BatchLeak(Sound):
    """Centres features over the batch as well."""

    def forward(self, features: Features) -> Prediction:
        deepest = features.maps[-1]
        return Prediction(self.head(deepest - deepest.mean(dim=(0, 2, 3), keepdim=True)))


class LeakInTraining(Sound):
    def forward(self, features: Features) -> Prediction:
        deepest = features.maps[-1]
        return Prediction(self.head(deepest + deepest.flip(0) if self.training else deepest))


class LeakToTheSecond(Sound):
    """Only the second image sees the first, and only in training."""

    def forward(self, features: Features) -> Prediction:
        deepest = features.maps[-1]
        second = torch.tensor([0.0, 1.0])[: len(deepest), None, None, None]
        return Prediction(self.head(deepest - 0.9 * deepest[:1] * second if self.training else deepest))


class LeakWithoutGradient(Sound):
    """The mean of the batch, taken off behind the gradient's back."""

    def forward(self, features: Features) -> Prediction:
        deepest = features.maps[-1]
        return Prediction(self.head(deepest - deepest.mean(0, keepdim=True).detach() * self.training))


class LeakBesideBatchNorm(Sound):
    """A norm over the batch does not excuse other mixing."""

    def __init__(self, info: FeatureInfo, num_classes: int) -> None:
        super().__init__(info, num_classes)
        self.norm = nn.BatchNorm2d(info.channels[-1])

    def forward(self, features: Features) -> Prediction:
        deepest = self.norm(features.maps[-1])
        return Prediction(self.head(deepest + deepest.flip(0) if self.training else deepest))


class NanInBf16(Sound):
    """The difference of near numbers under a root: 1.001 is 1 in bfloat16."""

    def forward(self, features: Features) -> Prediction:
        logits = self.head(features.maps[-1])
        spread = 1.001 * torch.ones_like(logits) - torch.ones_like(logits) - 5e-4
        return Prediction(logits * spread.sqrt())


class NanGradient(Sound):
    """Finite until the backward pass: the root's slope at 0 is infinite, times 0."""

    def forward(self, features: Features) -> Prediction:
        return Prediction(self.head(features.maps[-1]) + (0 * self.head.weight.sum()).sqrt())


class AnotherWhenTraced(Sound):
    def forward(self, features: Features) -> Prediction:
        return Prediction(self.head(features.maps[-1]) * (1.5 if torch.compiler.is_compiling() else 1.0))


class DetachedWhenTraced(Sound):
    def forward(self, features: Features) -> Prediction:
        bias = self.head.bias.detach() if torch.compiler.is_compiling() else self.head.bias
        return Prediction(nn.functional.conv2d(features.maps[-1], self.head.weight, bias))


class SlowerWhenTraced(Sound):
    """Half of the gradient is lost where nobody looks at values."""

    def forward(self, features: Features) -> Prediction:
        logits = self.head(features.maps[-1])
        return Prediction(logits / 2 + logits.detach() / 2 if torch.compiler.is_compiling() else logits)


class StateOutside(Sound):
    """Running statistics that no state dict knows of."""

    def __init__(self, info: FeatureInfo, num_classes: int) -> None:
        super().__init__(info, num_classes)
        self.mean = torch.zeros(info.channels[-1], 1, 1)

    def forward(self, features: Features) -> Prediction:
        deepest = features.maps[-1]
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * deepest.detach().mean(dim=(0, 2, 3)).view(-1, 1, 1)
        return Prediction(self.head(deepest - self.mean))


class MadeInForward(Sound):
    """A layer that is there only after the first image."""

    def forward(self, features: Features) -> Prediction:
        deepest = features.maps[-1]
        if not hasattr(self, "mix"):
            self.mix = nn.Conv2d(deepest.shape[1], deepest.shape[1], 1)
        return Prediction(self.head(self.mix(deepest)))


class RandomInEvaluation(Sound):
    def forward(self, features: Features) -> Prediction:
        return Prediction(self.head(nn.functional.dropout(features.maps[-1])))


class GraphBreak(Sound):
    """Looks at values on the way."""

    def forward(self, features: Features) -> Prediction:
        if features.maps[-1].abs().max().item() > 1e6:
            raise ValueError("features are too large")
        return super().forward(features)


class SameEverywhere(Sound):
    """Pools the features away."""

    def forward(self, features: Features) -> Prediction:
        deepest = features.maps[-1]
        return Prediction(self.head(deepest.mean(dim=(2, 3), keepdim=True).expand_as(deepest)))


class TwoTypes(Sound):
    """Returns a boundary in training only."""

    def forward(self, features: Features) -> Prediction:
        logits = self.head(features.maps[-1])
        return Prediction(logits, boundary=logits[:, :1]) if self.training else Prediction(logits)


class Normalised(Sound):
    """Not broken: batch norm is allowed to mix images in training."""

    def __init__(self, info: FeatureInfo, num_classes: int) -> None:
        super().__init__(info, num_classes)
        self.norm = nn.BatchNorm2d(info.channels[-1])

    def forward(self, features: Features) -> Prediction:
        return Prediction(self.head(self.norm(features.maps[-1])))


class RefusesPlainMaps(Sound):
    """Not broken either: it wants what only a neck can give."""

    def __init__(self, info: FeatureInfo, num_classes: int) -> None:
        if info.channels[-1] != 32:
            raise ValueError(f"32 channels are needed, not {info.channels[-1]}")
        super().__init__(info, num_classes)

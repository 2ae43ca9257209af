"""The contract of a neck."""

from abc import ABC, abstractmethod

from torch import nn

from segbench.types import FeatureInfo, Features


class Neck(nn.Module, ABC):
    """`Features` in, `Features` out. Built as `Neck(info, …)`.

    Attributes:
        info: What the maps look like after this neck.
    """

    info: FeatureInfo

    @abstractmethod
    def forward(self, features: Features) -> Features:
        """Changes the maps and passes the image on untouched.

        Args:
            features: What the encoder or the previous neck returned.

        Returns:
            Features as `info` describes them.
        """

    def no_weight_decay(self) -> set[str]:
        """Names the parameters that weight decay leaves alone, beside biases and norms.

        Returns:
            Names as in `named_parameters()`.
        """
        return set()


class IterativeNeck(Neck):
    """A neck that repeats one step; the number of repetitions may be changed after training.

    Attributes:
        iterations: How often the step is applied; at least 0.
    """

    iterations: int

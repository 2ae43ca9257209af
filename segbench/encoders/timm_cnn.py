"""Any network of timm with a pyramid of maps as an encoder: ResNet, ConvNeXt, EfficientNet, PVT and others.

Code: https://github.com/huggingface/pytorch-image-models. Images are padded at the bottom and right to whole
cells of the deepest map, with the mean colour; the classifier is not kept.
"""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from segbench.encoders import timm_common
from segbench.encoders.base import DepthGroup, Encoder, needs_pretrained_weights
from segbench.encoders.pretrained import load_cnn_weights
from segbench.functional.tokens import pad_to_multiple
from segbench.types import FeatureInfo, Features

PROBE = (512, 768)  # pixels of an image without content that shows channels and strides; any 64 divides


class TimmCNN(Encoder):
    """A timm network with one map for each of its strides."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        img_size: tuple[int, int],
        model_name: str = "resnet50",
        pretrained: bool | Path = False,
        levels: list[int] | None = None,
        drop_path_rate: float = 0.0,
        frozen: bool = False,
        grad_checkpointing: bool = False,
        pixel_mean: tuple[float, float, float] | None = None,
        pixel_std: tuple[float, float, float] | None = None,
    ) -> None:
        """Builds the network and, if asked, loads its weights.

        Args:
            img_size: `(height, width)` of training crops.
            model_name: Name as `timm.list_models()` spells it.
            pretrained: true fetches timm's weights for this name, a path loads a file (safetensors or pth),
                false starts from random weights.
            levels: Maps that are handed on, 0 the shallowest; negative numbers count from the deepest. The
                default is all. Layers behind the deepest are dropped.
            drop_path_rate: Stochastic depth, rising linearly from 0 to this rate, in networks that know it.
            frozen: Keep the weights as they are: no gradients, evaluation mode, also of norms over the batch.
            grad_checkpointing: Recompute blocks in the backward pass: slower, less memory.
            pixel_mean: RGB mean on the 0..255 scale; the default is what the weights were trained with.
            pixel_std: RGB standard deviation on the 0..255 scale; likewise.

        Raises:
            ValueError: If the network has no maps whose strides double, or its weights cannot be had or do not
                fit.
        """
        super().__init__()
        self.frozen = frozen
        channels, strides, names = _probe(model_name)
        self._levels = _resolve_levels(levels, strides, model_name)
        cnn: Any = timm.create_model(model_name, num_classes=0, drop_path_rate=drop_path_rate or None)
        cnn.prune_intermediate_layers(self._levels, prune_norm=False, prune_head=True)
        if pretrained is not False and needs_pretrained_weights():
            source = pretrained if pretrained is True else Path(pretrained)
            load_cnn_weights(cnn, model_name, source, names - set(cnn.state_dict()))
        cnn.set_grad_checkpointing(grad_checkpointing)
        self.cnn = cnn

        mean, std = timm_common.pixel_statistics(cnn, pixel_mean, pixel_std)
        self.register_buffer("pixel_mean", mean, persistent=False)
        self.register_buffer("pixel_std", std, persistent=False)

        deepest = strides[self._levels[-1]]
        self.info = FeatureInfo(
            channels=tuple(channels[level] for level in self._levels),
            strides=tuple(strides[level] for level in self._levels),
            grid=(math.ceil(img_size[0] / deepest), math.ceil(img_size[1] / deepest)),
        )
        if frozen:
            self.requires_grad_(False)
            self.eval()

    def train(self, mode: bool = True) -> "TimmCNN":
        """Switches between training and evaluation; a frozen encoder stays in evaluation."""
        return super().train(mode and not self.frozen)

    def normalize(self, image: Tensor) -> Tensor:
        """Returns normalised pixels, padded to a multiple of the stride."""
        image = (image - self.pixel_mean) / self.pixel_std  # (B, 3, H, W)
        return pad_to_multiple(image, self.info.strides[-1])  # normalised zeros are the mean colour

    def forward(self, image: Tensor) -> Features:
        """Returns the maps of images of any size."""
        image = self.normalize(image)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            maps = self.cnn.forward_intermediates(
                image, indices=self._levels, output_fmt="NCHW", intermediates_only=True
            )
        return Features(image, tuple(maps))

    def depth_groups(self) -> list[DepthGroup]:
        """Returns the parameters grouped by block, as timm's matcher does."""
        return timm_common.depth_groups("cnn", self.cnn)

    def no_weight_decay(self) -> set[str]:
        """Returns the parameters that timm exempts from weight decay."""
        return timm_common.no_weight_decay("cnn", self.cnn)


def _probe(model_name: str) -> tuple[list[int], list[int], set[str]]:
    """Builds the network without memory and looks at its maps.

    Returns:
        Channels and strides of all maps, and the names of all weights, the classifier's included.
    """
    timm_common.check_name(model_name, "*")
    with torch.device("meta"):
        whole: Any = timm.create_model(model_name).eval()
        try:
            image = torch.empty(1, 3, *PROBE)
            maps = whole.forward_intermediates(image, output_fmt="NCHW", intermediates_only=True)
        except (AttributeError, AssertionError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"model_name: '{model_name}' gives no maps of images of any size ({type(error).__name__}); "
                "choose a convolutional network such as resnet50 or convnext_tiny, or TimmViT for a plain ViT"
            ) from error
    strides = [PROBE[0] // feature_map.shape[-2] for feature_map in maps]
    return [feature_map.shape[1] for feature_map in maps], strides, set(whole.state_dict())


def _resolve_levels(levels: list[int] | None, strides: list[int], model_name: str) -> list[int]:
    chosen = list(range(len(strides))) if levels is None else levels
    if not chosen or any(not -len(strides) <= level < len(strides) for level in chosen):
        raise ValueError(f"levels: {model_name} has levels 0 to {len(strides) - 1}; got {chosen}")
    resolved = sorted({level % len(strides) for level in chosen})
    kept = [strides[level] for level in resolved]
    if any(deep != 2 * fine for fine, deep in pairwise(kept)):
        raise ValueError(
            f"model_name: the maps of '{model_name}' have strides {kept}, which do not double; "
            "choose levels that do, or TimmViT for a plain ViT"
        )
    return resolved

"""The yardstick: the same model trained and scored in the manner of the peers.

Attention writes its matrices out, logits are upsampled to pixels and kept, the loss is torch's own, and
evaluation goes through window maps, their sum, a resize and a softmax, all at full size, before the argmax.
So does https://github.com/rstrudel/segmenter (`segm/model/utils.py`) and, but for details, MMSegmentation.
"""

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segbench.decoders.linear import LinearDecoder
from segbench.decoders.mask_transformer import MaskTransformer
from segbench.encoders.timm_vit import TimmViT
from segbench.losses.cross_entropy import CrossEntropy
from segbench.tasks.semantic import SemanticTask


class PlainSegmenter(nn.Module):
    """A Segmenter with copies of a task's weights, which holds whatever its peers hold."""

    def __init__(self, task: SemanticTask) -> None:
        """Copies encoder and decoder.

        Args:
            task: With either of Segmenter's decoders.

        Raises:
            ValueError: If the task is not a Segmenter, so that there is no peer to compare with.
        """
        super().__init__()
        (loss, *others) = task.losses
        if (
            not isinstance(task.encoder, TimmViT)
            or not isinstance(task.decoder, (LinearDecoder, MaskTransformer))
            or len(task.necks)
            or not isinstance(loss, CrossEntropy)
            or others
        ):
            raise ValueError("only Segmenter's own models have a plain baseline")
        self.encoder, self.decoder = copy.deepcopy(task.encoder), copy.deepcopy(task.decoder)
        self.loss = copy.deepcopy(loss)
        for module in self.modules():
            if hasattr(module, "fused_attn"):  # timm: softmax(Q Kᵀ) V step by step
                module.fused_attn = False  # type: ignore[assignment]

    def forward(self, image: Tensor) -> Tensor:
        """Computes logits `(B, K, H, W)` of `(B, 3, H, W)` RGB on the 0..255 scale, all of them at once."""
        features = self.encoder(image)
        logits = self.decoder(features).logits
        logits = F.interpolate(logits, features.image.shape[-2:], mode="bilinear", align_corners=False)
        return logits[..., : image.shape[-2], : image.shape[-1]]

    def cross_entropy(self, logits: Tensor, label: Tensor) -> Tensor:
        """Computes the mean over labelled pixels from `(B, K, H, W)` logits and `(B, H, W)` labels."""
        return F.cross_entropy(
            logits,
            label.long(),
            self.loss.class_weights,
            ignore_index=self.loss.ignore_index,
            label_smoothing=self.loss.label_smoothing,
        )

    def segment(self, image: Tensor) -> Tensor:
        """Labels `(B, H, W)` every pixel of images that are one window each."""
        size = (image.shape[-2], image.shape[-1])
        return torch.stack([merge(logits[None], [(0, 0)], size) for logits in self(image)])


def merge(windows: Tensor, corners: Sequence[tuple[int, int]], size: tuple[int, int]) -> Tensor:
    """Labels an image by the average of its windows, at full size in every step.

    Args:
        windows: `(n, K, height, width)` logits of the windows, upsampled to pixels.
        corners: Top and left pixel of each.
        size: `(H, W)` of the image.

    Returns:
        Labels `(H, W)`, int64.
    """
    height, width = windows.shape[-2:]
    total = windows.new_zeros(windows.shape[1], *size)
    count = windows.new_zeros(1, *size)
    for window, (top, left) in zip(windows, corners, strict=True):
        total[:, top : top + height, left : left + width] += window
        count[:, top : top + height, left : left + width] += 1
    # To the size before scaling; the peers do it even where that is the same.
    logits = F.interpolate((total / count)[None], size, mode="bilinear", align_corners=False)[0]
    return logits.softmax(0).argmax(0)

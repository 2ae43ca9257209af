"""Any vision transformer of timm as an encoder.

Plain ViT, DeiT (distilled too), register tokens, DINOv2, DINOv3 and EVA-02, of any patch size, on images of any
size and shape.

Paper: https://arxiv.org/abs/2010.11929. Code: https://github.com/huggingface/pytorch-image-models.
As in Segmenter (https://github.com/rstrudel/segmenter), images are padded at the bottom and right to whole
patches and prefix tokens are dropped. Unlike there, the unused classification head is not kept.
"""

import math
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from segbench.encoders import timm_common
from segbench.encoders.base import DepthGroup, Encoder, needs_pretrained_weights
from segbench.encoders.pretrained import load_weights
from segbench.functional.resize import Resampling
from segbench.functional.tokens import pad_to_multiple, resample_grid
from segbench.layers.timm_attention import fuse_attention
from segbench.types import FeatureInfo, Features


class TimmViT(Encoder):
    """A timm vision transformer with feature maps at chosen depths.

    Attention runs through `segbench.kernels.attention` in plain blocks, elsewhere through torch's
    `scaled_dot_product_attention` wherever timm can use it.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        img_size: tuple[int, int],
        model_name: str = "vit_tiny_patch16_384",
        pretrained: bool | Path = False,
        depths: list[int] | None = None,
        patch_size: int | None = None,
        drop_path_rate: float = 0.0,
        norm_eps: float | None = None,
        pos_embed_resampling: Resampling = "bicubic-antialias",
        frozen: bool = False,
        grad_checkpointing: bool = False,
        pixel_mean: tuple[float, float, float] | None = None,
        pixel_std: tuple[float, float, float] | None = None,
    ) -> None:
        """Builds the transformer and, if asked, loads its weights.

        Args:
            img_size: `(height, width)` of training crops; sets the grid of the position embedding.
            model_name: Name of a vision transformer as `timm.list_models("vit_*")` spells it.
            pretrained: true fetches timm's weights for this name, a path loads a file (safetensors, pth, or an
                AugReg npz), false starts from random weights.
            depths: Blocks after which a map is taken, counted from 0; negative numbers count from the end. The
                default is the last block. Blocks behind the deepest are dropped.
            patch_size: Side of a patch, where it is to be another than the model's own; the patch embedding of
                pretrained weights is resampled.
            drop_path_rate: Stochastic depth, rising linearly from 0 to this rate; Segmenter trains with 0.1.
            norm_eps: Epsilon of every LayerNorm. The default keeps timm's 1e-6, which fits AugReg weights and
                MMSegmentation; official Segmenter checkpoints were trained with 1e-5.
            pos_embed_resampling: How the position embedding is fitted to another grid. timm uses
                bicubic-antialias, MMSegmentation bicubic, official Segmenter bilinear.
            frozen: Keep the weights as they are: no gradients, evaluation mode.
            grad_checkpointing: Recompute blocks in the backward pass: slower, less memory.
            pixel_mean: RGB mean on the 0..255 scale; the default is what the weights were trained with.
            pixel_std: RGB standard deviation on the 0..255 scale; likewise.

        Raises:
            ValueError: If the model is not a vision transformer, or its weights cannot be had or do not fit.
        """
        super().__init__()
        self.frozen = frozen
        vit: Any = self._build(
            model_name, img_size, patch_size, pretrained, drop_path_rate, pos_embed_resampling
        )
        if norm_eps is not None:
            for module in vit.modules():
                if isinstance(module, nn.LayerNorm):
                    module.eps = norm_eps

        self.patch_size: tuple[int, int] = tuple(vit.patch_embed.patch_size)
        self._depths = _resolve_depths(depths, len(vit.blocks), model_name)
        # The head would never receive a gradient, which DDP takes for a fault; nor would blocks behind the
        # deepest map.
        vit.prune_intermediate_layers(self._depths, prune_norm=False, prune_head=True)
        vit.set_grad_checkpointing(grad_checkpointing)
        if not isinstance(vit, Eva):
            vit._pos_embed = partial(_add_position_embedding, vit)
            vit.pos_embed_resampling = pos_embed_resampling
        fuse_attention(vit)
        self.vit = vit

        mean, std = timm_common.pixel_statistics(vit, pixel_mean, pixel_std)
        self.register_buffer("pixel_mean", mean, persistent=False)
        self.register_buffer("pixel_std", std, persistent=False)

        rows, columns = self.patch_size
        levels = len(self._depths)
        self.info = FeatureInfo(
            channels=(vit.embed_dim,) * levels,
            strides=(max(self.patch_size),) * levels,
            grid=(math.ceil(img_size[0] / rows), math.ceil(img_size[1] / columns)),
        )
        if frozen:
            self.requires_grad_(False)
            self.eval()

    @staticmethod
    def _build(
        model_name: str,
        img_size: tuple[int, int],
        patch_size: int | None,
        pretrained: bool | Path,
        drop_path_rate: float,
        resampling: Resampling,
    ) -> Any:
        timm_common.check_name(model_name, "*vit*")
        if patch_size is not None and patch_size < 1:
            raise ValueError(f"patch_size must be at least 1, or null for the model's own; got {patch_size}")
        chosen: dict[str, Any] = {} if patch_size is None else {"patch_size": patch_size}
        # Built once without weights of its own size: the patch size is only known from the built model.
        with torch.device("meta"):
            blueprint = timm.create_model(model_name, num_classes=0)
        if not isinstance(blueprint, (VisionTransformer, Eva)):
            raise ValueError(
                f"model_name: '{model_name}' is a {type(blueprint).__name__}, not a vision transformer; "
                "choose a vit_*, deit_*, deit3_* or eva02_* model of timm"
            )
        if isinstance(blueprint, Eva) and blueprint.pos_embed is not None and resampling != "bicubic-antialias":
            raise ValueError(f"pos_embed_resampling: {model_name} knows only bicubic-antialias")
        rows, columns = (patch_size, patch_size) if patch_size else blueprint.patch_embed.patch_size
        padded = (math.ceil(img_size[0] / rows) * rows, math.ceil(img_size[1] / columns) * columns)
        vit: Any = timm.create_model(
            model_name,
            num_classes=0,
            img_size=padded,
            dynamic_img_size=True,
            drop_path_rate=drop_path_rate,
            **chosen,
        )
        if pretrained is not False and needs_pretrained_weights():
            load_weights(vit, model_name, pretrained if pretrained is True else Path(pretrained), resampling)
        return vit

    def train(self, mode: bool = True) -> "TimmViT":
        """Switches between training and evaluation; a frozen encoder stays in evaluation."""
        return super().train(mode and not self.frozen)

    def normalize(self, image: Tensor) -> Tensor:
        """Returns normalised pixels, padded to a multiple of the stride."""
        image = (image - self.pixel_mean) / self.pixel_std  # (B, 3, H, W)
        return pad_to_multiple(image, self.patch_size)  # zeros of the normalised image are its mean colour

    def forward(self, image: Tensor) -> Features:
        """Returns the maps of images of any size."""
        image = self.normalize(image)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            maps = self.vit.forward_intermediates(
                image, indices=self._depths, norm=True, output_fmt="NCHW", intermediates_only=True
            )
        return Features(image, tuple(maps))

    def depth_groups(self) -> list[DepthGroup]:
        """Returns the parameters grouped by block, as timm's matcher does."""
        return timm_common.depth_groups("vit", self.vit)

    def no_weight_decay(self) -> set[str]:
        """Returns position embedding and prefix tokens, which are exempt from weight decay."""
        return timm_common.no_weight_decay("vit", self.vit)


def _add_position_embedding(vit: Any, patches: Tensor) -> Tensor:
    """Stands in for timm's method of the same purpose, which knows one kind of resampling only.

    Args:
        vit: The transformer.
        patches: `(B, h, w, C)` embedded patches.

    Returns:
        `(B, P + N, C)` tokens, `P` prefix tokens first.
    """
    batch, *grid, _ = patches.shape
    names = ("cls_token", "dist_token", "reg_token")
    prefix = [
        getattr(vit, name).expand(batch, -1, -1) for name in names if getattr(vit, name, None) is not None
    ]
    tokens = patches.flatten(1, 2)
    if vit.pos_embed is not None:
        learned = 0 if vit.no_embed_class else vit.num_prefix_tokens
        of_prefix, of_patches = vit.pos_embed[:, :learned], vit.pos_embed[:, learned:]
        tokens = tokens + resample_grid(
            of_patches, vit.patch_embed.grid_size, (grid[0], grid[1]), vit.pos_embed_resampling
        )
        if prefix and learned:
            prefix = [torch.cat(prefix, dim=1) + of_prefix]
    embedded: Tensor = vit.pos_drop(torch.cat([*prefix, tokens], dim=1))
    return embedded


def _resolve_depths(depths: list[int] | None, num_blocks: int, model_name: str) -> list[int]:
    chosen = [-1] if depths is None else depths
    wrong = [depth for depth in chosen if not -num_blocks <= depth < num_blocks]
    if wrong or not chosen:
        raise ValueError(f"depths: {model_name} has blocks 0 to {num_blocks - 1}; got {chosen}")
    return sorted({depth % num_blocks for depth in chosen})

"""Official Segmenter: checkpoint.pth beside variant.yml.

Paper: https://arxiv.org/abs/2105.05633. Code: https://github.com/rstrudel/segmenter.
LayerNorm's epsilon is torch's 1e-5 there, the position embedding is resampled bilinearly, and evaluation
(segm/eval/miou.py) takes windows of the training crop, 32 pixels less than that apart.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from segbench.commands.convert.keys import Rule
from segbench.commands.convert.network import Network, Pair, architecture, count_blocks, grid_size, head_count
from segbench.commands.convert.reading import weights
from segbench.commands.convert.settings import Settings
from segbench.data.io.files import read_text

_UNUSED_HEAD = "the classifier of pre-training, which segmentation never uses"

TABLE = (
    Rule("encoder.head.*", None, reason=_UNUSED_HEAD),
    Rule("encoder.head_dist.*", None, reason=_UNUSED_HEAD),
    Rule("encoder.*", "encoder.vit.*"),  # both have timm's names inside
    Rule("decoder.*", "decoder.*"),
)

# To what images are scaled for evaluation: segm/config.yml's im_size, and as many times that for the long side
# as segm/data/config has in max_ratio.
_RESIZE: dict[str, Pair] = {
    "ade20k": (4 * 512, 512),
    "pascal_context": (8 * 520, 520),
    "cityscapes": (2 * 1024, 1024),
}
_STATISTICS = {
    "vit": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "deit": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


class _VariantLoader(yaml.SafeLoader):
    """Plain YAML, and the one tag that `yaml.dump` gave image sizes."""


def _tuple(loader: _VariantLoader, node: yaml.Node) -> tuple[Any, ...]:
    if not isinstance(node, yaml.SequenceNode) or not all(isinstance(n, yaml.ScalarNode) for n in node.value):
        raise yaml.constructor.ConstructorError(
            None, None, "a tuple of plain values is expected", node.start_mark
        )
    return tuple(loader.construct_sequence(node))


_VariantLoader.add_constructor("tag:yaml.org,2002:python/tuple", _tuple)


def read_variant(path: Path) -> dict[str, Any]:
    """Reads variant.yml, which plain safe loading refuses for its tuples; no other Python tag is known.

    Args:
        path: The file.

    Returns:
        Plain values.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is no such YAML.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"file not found: {path}; Segmenter writes it beside checkpoint.pth; give it by --config FILE"
        )
    try:
        variant = yaml.load(read_text(path), Loader=_VariantLoader)  # noqa: S506 (a safe loader, see above)
    except (yaml.YAMLError, RecursionError) as error:
        told = str(getattr(error, "problem", None) or "no YAML").partition("\n")[0]
        raise ValueError(f"{path} is not read: {told}") from error
    if not isinstance(variant, dict):
        raise ValueError(f"{path} is not a variant.yml of Segmenter")
    return variant


def describe(content: dict[str, Any], path: Path, config: Path | None, neck_iterations: int | None) -> Network:
    """Says in segbench's terms what a checkpoint of Segmenter is.

    Args:
        content: Of checkpoint.pth.
        path: Of checkpoint.pth.
        config: variant.yml, where it does not lie beside it.
        neck_iterations: Must be none: Segmenter has nothing that iterates.

    Returns:
        The network.

    Raises:
        FileNotFoundError: If there is no variant.yml.
        ValueError: If file and variant contradict each other, or are of no kind that is known.
    """
    if neck_iterations is not None:
        raise ValueError("--neck_iterations: nothing iterates in Segmenter; leave it out")
    variant_path = config or path.parent / "variant.yml"
    variant = Settings(read_variant(variant_path), variant_path)
    found = weights(content, "model", path)

    head, num_classes = head_count(found, ("decoder.cls_emb", "decoder.head.weight"), path)
    declared = {
        f"n_cls in {path}": Settings(content, path).get("n_cls", int, num_classes),
        f"n_cls in {variant_path}": variant.get("net_kwargs.n_cls", int, num_classes),
    }
    for name, value in declared.items():
        if value != num_classes:
            raise ValueError(f"{path} decodes {num_classes} classes, but {name} is {value}")

    distilled = "encoder.dist_token" in found
    vit = architecture(
        found, "encoder.blocks.", "encoder.patch_embed.proj.weight", "encoder.pos_embed", 1 + distilled, path
    )
    img_size = grid_size(vit, variant.pair("net_kwargs.image_size"), path)
    masks = head == "decoder.cls_emb"
    _agree(variant, "net_kwargs.patch_size", vit.patch_size)
    _agree(variant, "net_kwargs.n_heads", vit.num_heads)
    _agree(variant, "net_kwargs.d_model", found["encoder.pos_embed"].shape[2])
    _agree(variant, "net_kwargs.n_layers", count_blocks(found, "encoder.blocks."))
    for told, seen, what in (  # the variant of another checkpoint would bring its pixel statistics along
        (variant.get("net_kwargs.distilled", bool, False), distilled, "distilled"),
        (variant.get("net_kwargs.decoder.name", str) == "mask_transformer", masks, "with a mask transformer"),
    ):
        if told != seen:
            raise ValueError(f"{path} is {'' if seen else 'not '}{what}, other than {variant_path} says")
    if masks:
        _agree(variant, "net_kwargs.decoder.n_layers", count_blocks(found, "decoder.blocks."))

    window = variant.pair("dataset_kwargs.crop_size", img_size) or img_size
    named = variant.get("dataset_kwargs.dataset", str, "")
    dataset = named if re.fullmatch(r"[\w-]+", named) else None  # it becomes part of a path
    side, _ = variant.pair("inference_kwargs.im_size", img_size) or img_size
    resize = _RESIZE.get(dataset or "", (4 * side, side))
    notes = []
    if dataset not in _RESIZE:
        notes.append(
            f"images are scaled to {resize} in evaluation, as for ADE20K: {dataset or 'the dataset'} is unknown"
        )
    optimizer = variant.get("optimizer_kwargs.opt", str, "sgd").lower()
    if optimizer not in {"sgd", "nesterov"}:  # timm's names of the same
        notes.append(f"the optimiser {optimizer} is not taken over; to train on, set model.init_args.optimizer")
    mean, std = _statistics(variant)
    decoder = {"class_path": "segbench.decoders.linear.LinearDecoder"}
    if masks:
        decoder = _mask_transformer(variant, found)
    return Network(
        title=f"Segmenter, {vit.name}, {'mask transformer' if masks else 'linear decoder'}",
        weights=found,
        table=TABLE,
        init_args={
            "encoder": {
                "class_path": "segbench.encoders.timm_vit.TimmViT",
                "init_args": vit.init_args
                | {
                    "drop_path_rate": variant.get("net_kwargs.drop_path_rate", float, 0.1),
                    "norm_eps": 1e-5,
                    "pos_embed_resampling": "bilinear",
                    "pixel_mean": mean,
                    "pixel_std": std,
                },
            },
            "decoder": decoder,
            "losses": [{"class_path": "segbench.losses.cross_entropy.CrossEntropy"}],
            "optimizer": {
                "class_path": "torch.optim.SGD",
                "init_args": {
                    "lr": variant.get("optimizer_kwargs.lr", float, 1e-3),
                    "momentum": variant.get("optimizer_kwargs.momentum", float, 0.9),
                    "weight_decay": variant.get("optimizer_kwargs.weight_decay", float, 0.0),
                    "nesterov": True,
                },
            },
            "schedule": {
                "class_path": "segbench.optim.schedules.Poly",
                "init_args": {
                    "power": variant.get("optimizer_kwargs.poly_power", float, 0.9),
                    "min_lr": variant.get("optimizer_kwargs.min_lr", float, 1e-5),
                },
            },
            "window": list(window),
            "stride": [max(1, side - 32) for side in window],
            "resize": list(resize),
            "small_images": "enlarge",
            "upsample_to": "padded",
        },
        img_size=img_size,
        num_classes=num_classes,
        dataset=dataset,
        notes=notes,
        left_behind=[key for key in ("optimizer", "lr_scheduler", "loss_scaler", "epoch") if key in content],
    )


def _agree(variant: Settings, key: str, of_weights: int) -> None:
    value = variant.get(key, int)
    if value != of_weights:
        raise ValueError(
            f"{variant.origin}: {key} is {value}, but the weights are of a network with {of_weights}"
        )


def _statistics(variant: Settings) -> tuple[list[float], list[float]]:
    """Finds mean and deviation of pixels, rounded as segm/data/base.py rounds them."""
    name = variant.get("dataset_kwargs.normalization", str, variant.get("net_kwargs.normalization", str, ""))
    if name not in _STATISTICS:
        raise ValueError(f"{variant.origin}: normalization is {name!r}; known are {', '.join(_STATISTICS)}")
    mean, std = (np.round(255 * np.array(values), 2).tolist() for values in _STATISTICS[name])
    return mean, std


def _mask_transformer(variant: Settings, found: dict[str, Any]) -> dict[str, Any]:
    return {
        "class_path": "segbench.decoders.mask_transformer.MaskTransformer",
        "init_args": {
            "depth": count_blocks(found, "decoder.blocks."),  # 1 in the large model for Cityscapes
            "dropout": variant.get("net_kwargs.decoder.dropout", float, 0.1),
            "drop_path_rate": variant.get("net_kwargs.decoder.drop_path_rate", float, 0.0),
        },
    }

"""Segmenter and MeanShifter as MMSegmentation trains them, of version 0.x and 1.x.

Code: https://github.com/open-mmlab/mmsegmentation, and https://github.com/JohnnyKaz/mmsegmentation for the
MeanShifter. Weights have the same names in 0.x and 1.x; configuration and class names lie elsewhere. Other
than in official Segmenter, the backbone's epsilon is 1e-6, the position embedding is resampled bicubically,
logits are upsampled to the unpadded size, windows are cut to images smaller than they are, and the two
projections before the masks are linear layers, that is, transposed.
"""

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from segbench.commands.convert.keys import Rule
from segbench.commands.convert.network import (
    Architecture,
    Network,
    architecture,
    count_blocks,
    grid_size,
    head_count,
)
from segbench.commands.convert.preprocessing import Preparation, read_preparation
from segbench.commands.convert.python_config import read_python_config
from segbench.commands.convert.reading import weights
from segbench.commands.convert.settings import Settings
from segbench.data.io.files import read_text

Head = Literal["mask", "mean shift", "linear"]


def _layers(source: str, target: str) -> tuple[Rule, ...]:
    """Transformer layers, which backbone and mask head have in common."""
    names = {
        "ln1.*": "norm1.*",
        "ln2.*": "norm2.*",
        "attn.attn.in_proj_*": "attn.qkv.*",  # rows of queries, keys, values, as in timm
        "attn.attn.out_proj.*": "attn.proj.*",
        "ffn.layers.0.0.*": "mlp.fc1.*",
        "ffn.layers.1.*": "mlp.fc2.*",
    }
    return tuple(Rule(f"{source}.*.{theirs}", f"{target}.*.{ours}") for theirs, ours in names.items())


def _without_pixels(weight: Tensor) -> Tensor:
    """Makes a linear layer of a 1×1 convolution: `(K, D, 1, 1)` to `(K, D)`."""
    return weight.flatten(1) if weight.shape[2:] == (1, 1) else weight


_BACKBONE = (
    Rule("backbone.cls_token", "encoder.vit.cls_token"),
    Rule("backbone.pos_embed", "encoder.vit.pos_embed"),
    Rule("backbone.patch_embed.projection.*", "encoder.vit.patch_embed.proj.*"),
    Rule("backbone.ln1.*", "encoder.vit.norm.*"),
    *_layers("backbone.layers", "encoder.vit.blocks"),
)
_CLASSIFIER = (
    Rule("decode_head.conv_seg.weight", "decoder.head.weight", _without_pixels),
    Rule("decode_head.conv_seg.bias", "decoder.head.bias"),
)
_UNUSED = (
    Rule("auxiliary_head.*", None, reason="a head that helps in training alone"),
    Rule("ema_*", None, reason="what MMCV's averaging of weights keeps beside the model that is tested"),
)
TABLES: dict[Head, tuple[Rule, ...]] = {
    "linear": (*_BACKBONE, *_CLASSIFIER, *_UNUSED),
    "mean shift": (*_BACKBONE, *_CLASSIFIER, Rule("decode_head.q.*", "necks.0.project.*"), *_UNUSED),
    "mask": (
        *_BACKBONE,
        *_layers("decode_head.layers", "decoder.blocks"),
        Rule("decode_head.dec_proj.*", "decoder.proj_dec.*"),
        Rule("decode_head.cls_emb", "decoder.cls_emb"),
        Rule("decode_head.patch_proj.weight", "decoder.proj_patch", torch.t),
        Rule("decode_head.classes_proj.weight", "decoder.proj_classes", torch.t),
        Rule("decode_head.decoder_norm.*", "decoder.decoder_norm.*"),
        Rule("decode_head.mask_norm.*", "decoder.mask_norm.*"),
        Rule("decode_head.conv_seg.*", None, reason="a classifier that early versions built and never used"),
        *_UNUSED,
    ),
}
_DECIDING: dict[str, Head] = {
    "decode_head.cls_emb": "mask",
    "decode_head.q.weight": "mean shift",
    "decode_head.conv_seg.weight": "linear",
}
_TITLES: dict[Head, str] = {
    "mask": "mask transformer",
    "mean shift": "mean shift and linear decoder",
    "linear": "linear decoder",
}
_DATASETS = {"ADE20KDataset": "ade20k", "CityscapesDataset": "cityscapes"}


def describe(content: dict[str, Any], path: Path, config: Path | None, neck_iterations: int | None) -> Network:
    """Says in segbench's terms what a checkpoint of MMSegmentation is.

    Args:
        content: Of the checkpoint.
        path: Of the checkpoint.
        config: The resolved configuration, where the checkpoint does not carry it.
        neck_iterations: How often mean shift is applied, where the configuration does not say; no weight does.

    Returns:
        The network.

    Raises:
        FileNotFoundError: If the configuration does not exist.
        ValueError: If file and configuration contradict each other, or are of no kind that is known.
    """
    meta = content.get("meta")
    meta = meta if isinstance(meta, dict) else {}
    settings, notes = _settings(meta, path, config)
    found = weights(content, "state_dict", path)

    deciding, _ = head_count(found, tuple(_DECIDING), path)
    head = _DECIDING[deciding]
    _, num_classes = head_count(found, (deciding if head == "mask" else "decode_head.conv_seg.weight",), path)
    declared = settings.get("model.decode_head.num_classes", int, num_classes)
    if declared != num_classes:
        raise ValueError(f"{path} decodes {num_classes} classes, but its configuration says {declared}")
    vit = architecture(
        found, "backbone.layers.", "backbone.patch_embed.projection.weight", "backbone.pos_embed", 1, path
    )
    img_size = grid_size(vit, settings.pair("model.backbone.img_size"), path)
    _check(settings, vit, found)
    if neck_iterations is not None and head != "mean shift":
        raise ValueError("--neck_iterations: there is no mean shift in this checkpoint; leave it out")

    prepared = read_preparation(settings, img_size)
    notes += prepared.notes
    names, palette = _classes(meta, path)
    return Network(
        title=f"MMSegmentation, {vit.name}, {_TITLES[head]}",
        weights=found,
        table=TABLES[head],
        init_args={
            "encoder": _encoder(settings, vit, prepared),
            "necks": _necks(settings, found, neck_iterations, path) if head == "mean shift" else None,
            "decoder": _mask_transformer(settings, found)
            if head == "mask"
            else {"class_path": "segbench.decoders.linear.LinearDecoder"},
            "losses": [
                {
                    "class_path": "segbench.losses.cross_entropy.CrossEntropy",
                    "init_args": {"mean_over": _mean_over(settings)},
                }
            ],
            **_training(settings, notes),
            **_evaluation(settings, img_size),
            "resize": list(prepared.resize) if prepared.resize else None,
        },
        img_size=img_size,
        num_classes=num_classes,
        dataset=_DATASETS.get(settings.get("dataset_type", str, "")),
        class_names=names,
        palette=palette,
        notes=notes,
        left_behind=[
            key
            for key in ("optimizer", "param_schedulers", "message_hub", "ema_state_dict", "amp")
            if key in content
        ],
    )


def _settings(meta: dict[str, Any], path: Path, config: Path | None) -> tuple[Settings, list[str]]:
    """Finds the configuration: the user's file, or what the checkpoint carries, or nothing."""
    if config is not None:
        if not config.is_file():
            raise FileNotFoundError(f"--config: file not found: {config}")
        return Settings(read_python_config(read_text(config), config), config), []
    text = meta.get("config") or meta.get("cfg")  # 0.x, 1.x
    if isinstance(text, str):
        return Settings(read_python_config(text, path), path), []
    note = (
        "no configuration in the file: epsilon, resampling, normalisation, window and schedule are taken as"
        " published for ADE20K; --config FILE gives those of the work folder"
    )
    return Settings({}, path), [note]


def _classes(meta: dict[str, Any], path: Path) -> tuple[list[str] | None, list[list[int]] | None]:
    """Reads names and colours: beside each other in 0.x, under `dataset_meta` in 1.x."""
    told = meta.get("dataset_meta")
    told = told if isinstance(told, dict) else {}
    names = told.get("classes") or meta.get("CLASSES")
    palette = told.get("palette") or meta.get("PALETTE")
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        return None, None
    try:
        colors = [[int(channel) for channel in color] for color in palette or []]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: its palette is none of RGB colours") from error
    if any(len(color) != 3 or not 0 <= min(color) <= max(color) <= 255 for color in colors):
        raise ValueError(f"{path}: its palette is none of RGB colours")
    return list(names), colors or None


def _check(settings: Settings, vit: Architecture, found: dict[str, Tensor]) -> None:
    """Refuses what the weights contradict, and what they do not show and segbench would compute otherwise."""
    depth, of_head = (count_blocks(found, f"{part}.layers.") for part in ("backbone", "decode_head"))
    for key, kind, default, allowed in (
        ("model.backbone.patch_size", int, vit.patch_size, (vit.patch_size,)),
        ("model.backbone.num_heads", int, vit.num_heads, (vit.num_heads,)),
        ("model.backbone.num_layers", int, depth, (depth,)),
        ("model.decode_head.num_layers", int, of_head, (of_head,)),
        ("model.backbone.with_cls_token", bool, True, (True,)),
        ("model.backbone.act_cfg.type", str, "GELU", ("GELU",)),
        ("model.backbone.out_indices", object, -1, (-1, depth - 1, (depth - 1,), [depth - 1], (-1,), [-1])),
        ("model.decode_head.align_corners", bool, False, (False,)),
    ):
        value = settings.get(key, kind, default)
        if value not in allowed:
            raise ValueError(f"{settings.origin}: {key} is {value!r}; known here is {allowed[0]!r}")


def _encoder(settings: Settings, vit: Architecture, prepared: Preparation) -> dict[str, Any]:
    resampling = settings.get("model.backbone.interpolate_mode", str, "bicubic")
    if resampling not in {"bicubic", "bilinear"}:
        raise ValueError(
            f"{settings.origin}: interpolate_mode is {resampling!r}; known are bicubic and bilinear"
        )
    # Without eps the norm is torch's own; configurations of Segmenter there all say 1e-6.
    eps = settings.get("model.backbone.norm_cfg.eps", float, 1e-5 if settings.has("model.backbone") else 1e-6)
    if not 0 < eps < 1:
        raise ValueError(
            f"{settings.origin}: model.backbone.norm_cfg.eps is {eps}, where a small number is expected"
        )
    return {
        "class_path": "segbench.encoders.timm_vit.TimmViT",
        "init_args": vit.init_args
        | {
            "drop_path_rate": settings.get("model.backbone.drop_path_rate", float, 0.1),
            "norm_eps": eps,
            "pos_embed_resampling": resampling,
            "pixel_mean": prepared.mean,
            "pixel_std": prepared.std,
        },
    }


def _necks(
    settings: Settings, found: dict[str, Tensor], neck_iterations: int | None, path: Path
) -> list[dict[str, Any]]:
    iterations = neck_iterations
    if iterations is None:
        iterations = settings.get("model.decode_head.meanshift_layers", int, 0)
    elif iterations < 1:
        raise ValueError(f"--neck_iterations must be at least 1; got {iterations}")
    if iterations < 1:
        raise ValueError(
            f"{path}: how often mean shift is applied (meanshift_layers) shows in no weight, and no"
            " configuration says it; give it by --neck_iterations N or --config FILE"
        )
    init_args = {
        "iterations": iterations,
        "dim": len(found["decode_head.q.weight"]),
        "bias": "decode_head.q.bias" in found,
    }
    return [{"class_path": "segbench.necks.mean_shift.MeanShift", "init_args": init_args}]


def _mask_transformer(settings: Settings, found: dict[str, Tensor]) -> dict[str, Any]:
    eps = settings.get("model.decode_head.norm_cfg.eps", float, 1e-5)
    if eps != 1e-5:
        raise ValueError(f"{settings.origin}: epsilon in the decoder is {eps}; known here is 1e-5")
    width = found["decode_head.cls_emb"].shape[-1]
    return {
        "class_path": "segbench.decoders.mask_transformer.MaskTransformer",
        "init_args": {
            "embed_dim": width,
            "depth": count_blocks(found, "decode_head.layers."),
            "num_heads": settings.get("model.decode_head.num_heads", int, max(1, width // 64)),
            "dropout": settings.get("model.decode_head.drop_rate", float, 0.0),
            "drop_path_rate": settings.get("model.decode_head.drop_path_rate", float, 0.1),
        },
    }


def _mean_over(settings: Settings) -> str:
    valid = settings.get("model.decode_head.loss_decode", object, None)
    return "valid" if isinstance(valid, dict) and valid.get("avg_non_ignore") is True else "all"


def _training(settings: Settings, notes: list[str]) -> dict[str, Any]:
    """Takes over optimiser and schedule, of 1.x from `optim_wrapper` and `param_scheduler`."""
    place = "optim_wrapper.optimizer" if settings.has("optim_wrapper.optimizer") else "optimizer"
    kind = settings.get(f"{place}.type", str, "SGD")
    if kind != "SGD":
        notes.append(f"the optimiser {kind} is not taken over; to train on, set model.init_args.optimizer")
        place = ""
    schedules = settings.get("param_scheduler", object, None)
    poly = (
        next((one for one in schedules if isinstance(one, dict) and one.get("type") == "PolyLR"), {})
        if isinstance(schedules, (list, tuple))
        else {}
    )
    newer = Settings(poly, settings.origin)
    lr = settings.get(f"{place}.lr", float, 1e-3)
    min_lr = newer.get("eta_min", float, settings.get("lr_config.min_lr", float, 1e-4))
    return {
        "optimizer": {
            "class_path": "torch.optim.SGD",
            "init_args": {
                "lr": lr,
                "momentum": settings.get(f"{place}.momentum", float, 0.9),
                "weight_decay": settings.get(f"{place}.weight_decay", float, 0.0),
                "nesterov": settings.get(f"{place}.nesterov", bool, False),
            },
        },
        "schedule": {
            "class_path": "segbench.optim.schedules.Poly",
            "init_args": {
                "power": newer.get("power", float, settings.get("lr_config.power", float, 0.9)),
                "min_lr": min(min_lr, lr),
            },
        },
    }


def _evaluation(settings: Settings, img_size: tuple[int, int]) -> dict[str, Any]:
    """Takes over how images are tested: whole, or in windows."""
    windows: dict[str, Any] = {"window": None, "stride": None}
    if settings.get("model.test_cfg.mode", str, "slide") == "slide":
        window = settings.pair("model.test_cfg.crop_size", img_size) or img_size
        near = (max(1, window[0] - 32), max(1, window[1] - 32))
        windows = {"window": list(window), "stride": list(settings.pair("model.test_cfg.stride", near) or near)}
    return {**windows, "small_images": "whole", "upsample_to": "image"}

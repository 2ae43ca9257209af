"""Small models of every decoder, as YAML would describe them, in checkpoints as `segbench fit` writes them."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from jsonargparse import ArgumentParser

from segbench.checkpoints.reading import load_task
from segbench.tasks.base import Task

VIT = {
    "class_path": "segbench.encoders.timm_vit.TimmViT",
    "init_args": {"model_name": "vit_tiny_patch16_384", "depths": [0]},
}
CONV = {"class_path": "segbench.encoders.conv.ConvEncoder", "init_args": {"base_features": 8}}
PATCH_VIT = {
    "class_path": "segbench.encoders.patch_vit.PatchViT",
    "init_args": {
        "embed_dim": 16,
        "depth": 1,
        "num_heads": 2,
        "key_dim": 8,
        "hidden": [16],
        "bottleneck": [32],
        "feature_dim": 8,
    },
}
LINEAR = {"class_path": "segbench.decoders.linear.LinearDecoder"}
MASK = {"class_path": "segbench.decoders.mask_transformer.MaskTransformer", "init_args": {"depth": 1}}
MEAN_SHIFT = {"class_path": "segbench.necks.mean_shift.MeanShift", "init_args": {"dim": 64}}
PYRAMID = {"class_path": "segbench.necks.pyramid.Pyramid"}


def _patch_unet(**options: Any) -> dict[str, Any]:
    sizes = {"patch_dim": 16, "hidden": [32]}
    return {"class_path": "segbench.decoders.patch_unet.PatchUNet", "init_args": {**sizes, **options}}


def _attention_unet(**options: Any) -> dict[str, Any]:
    return {"class_path": "segbench.decoders.attention_unet.AttentionUNet", "init_args": options}


# By name: encoder, necks, decoder.
MODELS: dict[str, tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]] = {
    "linear": (VIT, [], LINEAR),
    "mask": (VIT, [], MASK),
    "meanshift": (VIT, [MEAN_SHIFT], LINEAR),
    "patch_unet": (VIT, [], _patch_unet()),
    "raw_patch_unet": (VIT, [], _patch_unet(fold="raw")),
    "original_patch_unet": (PATCH_VIT, [], _patch_unet(feature_dim=None)),
    "attention_unet": (CONV, [], _attention_unet()),
    "local_attention_unet": (CONV, [], _attention_unet(local_attention=[0, 1])),
    "attention_unet_vit": (VIT, [PYRAMID], _attention_unet()),
}
CORNERS = {  # of the colour cube, for tasks of eight classes
    "num_classes": 8,
    "class_names": ["black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"],
    "palette": [[255 * (index >> channel & 1) for channel in range(3)] for index in range(8)],
}


def hyper_parameters(name: str, **options: Any) -> dict[str, Any]:
    encoder, necks, decoder = MODELS[name]
    return {
        "_class_path": "segbench.tasks.semantic.SemanticTask",
        "encoder": encoder,
        "necks": necks,
        "decoder": decoder,
        "img_size": [64, 64],
        "num_classes": 3,
        "class_names": ["sky", "ground", "tree"],
        "palette": [[70, 130, 180], [128, 64, 128], [107, 142, 35]],
        **options,
    }


def write_checkpoint(path: Path, name: str, **options: Any) -> Path:
    """Writes a model of random weights."""
    torch.manual_seed(0)
    saved = hyper_parameters(name, **options)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Task, "model")
    init_args = {key: value for key, value in saved.items() if key != "_class_path"}
    model = yaml.safe_load(yaml.safe_dump({"class_path": saved["_class_path"], "init_args": init_args}))
    task = parser.instantiate(parser.parse_object({"model": model})).model
    torch.save({"state_dict": task.state_dict(), "hyper_parameters": saved}, path)
    return path


def pictures(batch: int, height: int, width: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws smooth colours with a little grain, uint8; the class of a pixel is the nearest of `CORNERS`."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, 3, 5, 6, generator=generator) * 255
    smooth = F.interpolate(coarse, (height, width), mode="bicubic")
    grain = 8 * torch.randn(smooth.shape, generator=generator)
    red, green, blue = (smooth > 127.5).long().unbind(1)
    return (smooth + grain).clamp(0, 255).to(torch.uint8), red + 2 * green + 4 * blue


def train(path: Path, steps: int) -> None:
    """Trains a model of eight classes on `pictures`, so that they lie apart as in any trained model."""
    content = torch.load(path, weights_only=True)
    task = load_task(path).train()
    optimizer = torch.optim.AdamW(task.parameters(), 1e-3)
    for step in range(steps):
        size = ((64, 64), (96, 128), (160, 96))[step % 3]
        image, label = pictures(4, *size, seed=1000 + step)
        logits = F.interpolate(task(image)[0].logits, label.shape[1:], mode="bilinear")
        optimizer.zero_grad()
        F.cross_entropy(logits, label).backward()
        optimizer.step()
    torch.save({**content, "state_dict": task.state_dict()}, path)

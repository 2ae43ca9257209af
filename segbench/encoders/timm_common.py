"""What every encoder made of a timm model takes from it: pixel statistics, depth, and what does not decay."""

from typing import Any

import timm
import torch
from timm.models import get_arch_pretrained_cfgs, group_parameters
from torch import Tensor

from segbench.encoders.base import DepthGroup
from segbench.parsing.names import close_matches

Color = tuple[float, float, float]


def check_name(model_name: str, family: str) -> None:
    """Refuses models and tags of weights that timm does not have.

    Args:
        model_name: `architecture` or `architecture.tag`.
        family: Pattern of the architectures from which a near one is named.

    Raises:
        ValueError: If there is none of that name; lists near ones, or the tags there are.
    """
    architecture, _, tag = model_name.partition(".")
    if not timm.is_model(architecture):
        names = timm.list_models(family)
        close = close_matches(architecture, names, 5) or names[:5]
        raise ValueError(f"model_name: timm has no model '{model_name}'; near it: {', '.join(close)}")
    tags = [name.partition(".")[2] for name in get_arch_pretrained_cfgs(architecture)]
    if tag and tag not in tags:
        known = [f"{architecture}.{one}" for one in close_matches(tag, tags, 1) + tags if one]
        there = (
            f"there are {', '.join(dict.fromkeys(known))}" if known else f"it has none: write {architecture}"
        )
        raise ValueError(f"model_name: timm has no weights '{tag}' for {architecture}; {there}")


def pixel_statistics(model: Any, mean: Color | None, std: Color | None) -> tuple[Tensor, Tensor]:
    """Chooses mean and standard deviation of pixels.

    Args:
        model: Of timm; what its weights were trained with is the default.
        mean: RGB on the 0..255 scale.
        std: Likewise.

    Returns:
        Two tensors `(3, 1, 1)`.
    """
    chosen = (
        mean or [255 * value for value in model.pretrained_cfg["mean"]],
        std or [255 * value for value in model.pretrained_cfg["std"]],
    )
    return torch.tensor(chosen[0]).view(3, 1, 1), torch.tensor(chosen[1]).view(3, 1, 1)


def depth_groups(name: str, model: Any) -> list[DepthGroup]:
    """Sorts parameters by block, as timm's own matcher does.

    Args:
        name: Of the attribute that holds the model.
        model: Of timm.

    Returns:
        See `Encoder.depth_groups`.
    """
    parameters = dict(model.named_parameters())
    groups = group_parameters(model, model.group_matcher())
    return [
        DepthGroup(depth, [(f"{name}.{key}", parameters[key]) for key in keys])
        for depth, keys in sorted(groups.items())
    ]


def no_weight_decay(name: str, model: Any) -> set[str]:
    """Names what timm exempts from weight decay.

    Args:
        name: Of the attribute that holds the model.
        model: Of timm.

    Returns:
        See `Encoder.no_weight_decay`.
    """
    exempt = model.no_weight_decay() if hasattr(model, "no_weight_decay") else set()
    return {
        f"{name}.{key}" for key, _ in model.named_parameters() if key in exempt
    }  # timm names more than it has

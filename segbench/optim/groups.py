"""Parameter groups: slower encoder, slower shallow layers, no decay where decay does harm."""

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from torch import nn
from torch.optim import Optimizer

# (depth, [(name, parameter), …]) as an encoder sorts its parameters, stem first.
DepthGroups: TypeAlias = Sequence[tuple[int, list[tuple[str, nn.Parameter]]]]


def parameter_groups(
    by_depth: DepthGroups,
    exempt: set[str],
    others: Iterable[nn.Module],
    *,
    encoder_lr_scale: float = 1.0,
    layer_decay: float = 1.0,
) -> list[dict[str, Any]]:
    """Sorts trainable parameters into groups for an optimiser.

    A group carries `lr_scale`, by which its learning rate is multiplied once the optimiser is built (see
    `scale_learning_rates`). Biases, norms and what parts name by `no_weight_decay()` are exempt from decay.

    Args:
        by_depth: The encoder's parameters, which are scaled by depth.
        exempt: Names among them that do not decay.
        others: Necks, decoder, losses; their scale is 1. Any module in them may have `no_weight_decay()`.
        encoder_lr_scale: Factor of the whole encoder.
        layer_decay: Further factor for each layer of depth below the deepest (BEiT, https://arxiv.org/abs/2106.08254,
            uses 0.65 to 0.9); 1 treats all layers alike.

    Returns:
        Groups with `params`, `lr_scale` and, where exempt, `weight_decay` 0; frozen parameters in none.

    Raises:
        ValueError: If a factor is not positive.
    """
    if encoder_lr_scale <= 0 or not 0 < layer_decay <= 1:
        raise ValueError(
            "encoder_lr_scale must be above 0 and layer_decay in (0, 1]; "
            f"got {encoder_lr_scale} and {layer_decay}"
        )
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}

    def add(parameter: nn.Parameter, scale: float, decays: bool) -> None:
        if parameter.requires_grad:
            groups.setdefault((scale, decays), []).append(parameter)

    deepest = max(depth for depth, _ in by_depth)
    for depth, parameters in by_depth:
        scale = encoder_lr_scale * layer_decay ** (deepest - depth)
        for name, parameter in parameters:
            add(parameter, scale, parameter.ndim > 1 and name not in exempt)
    for module in others:
        spared = _spared(module)
        for parameter in module.parameters():
            add(parameter, 1.0, parameter.ndim > 1 and id(parameter) not in spared)
    return [
        {"params": parameters, "lr_scale": scale} | ({} if decays else {"weight_decay": 0.0})
        for (scale, decays), parameters in groups.items()
    ]


def _spared(module: nn.Module) -> set[int]:
    spared: set[int] = set()
    for part in module.modules():
        if (names := getattr(part, "no_weight_decay", None)) and (wanted := names()):
            # timm's modules also name what they may not have
            spared |= {id(parameter) for name, parameter in part.named_parameters() if name in wanted}
    return spared


def scale_learning_rates(optimizer: Optimizer) -> Optimizer:
    """Multiplies each group's learning rate by its `lr_scale`.

    Args:
        optimizer: Built over groups of `parameter_groups`.

    Returns:
        The same optimiser.
    """
    for group in optimizer.param_groups:
        group["lr"] *= group["lr_scale"]
    return optimizer

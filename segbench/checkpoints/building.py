"""Models built from a stranger's configuration: no larger than the weights that come with it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

# A network of timm is built whole before what lies behind its deepest map is dropped, so some may go beyond.
_SPARE_NUMBERS = 1 << 28  # 1 GB of float32
_MOST = 1_000_000  # layers, channels, pixels of a side
_SPARE_TENSORS = 3_000  # the largest networks of timm have half as many


def build_like(
    weights: dict[str, Tensor], path: str | Path, config: Any, build: Callable[[], nn.Module]
) -> None:
    """Builds a model without memory of its own, to find out whether it is as large as its weights say.

    Args:
        weights: What is meant to fill it.
        path: Where they come from, for the message.
        config: How it is configured, as plain values.
        build: Builds it.

    Raises:
        ValueError: If it becomes much larger.
    """
    if (most := max(_whole_numbers(config), default=0)) > _MOST:
        raise ValueError(f"{path} asks for {most:,} of something, which no model has")
    with _limited(weights, path), torch.device("meta"):
        try:
            build()
        except NotImplementedError:  # a part computes with weights while it is built
            return


def _whole_numbers(config: Any) -> Iterator[int]:
    if isinstance(config, (dict, list)):
        for value in config.values() if isinstance(config, dict) else config:
            yield from _whole_numbers(value)
    elif isinstance(config, int):
        yield config


@contextmanager
def _limited(weights: dict[str, Tensor], path: str | Path) -> Iterator[None]:
    numbers = _SPARE_NUMBERS + 8 * sum(value.numel() for value in weights.values())
    tensors = _SPARE_TENSORS + 8 * len(weights)

    def count(_module: nn.Module, _name: str, value: Tensor | None) -> None:
        nonlocal numbers, tensors
        numbers -= 0 if value is None else value.numel()
        tensors -= 1
        if numbers < 0 or tensors < 0:
            raise ValueError(f"{path} describes a model that is many times larger than its weights")

    handles = [register(count) for register in (_PARAMETERS, _BUFFERS)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


_PARAMETERS, _BUFFERS = register_module_parameter_registration_hook, register_module_buffer_registration_hook

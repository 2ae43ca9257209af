"""Which tensors of a state are no longer finite."""

import math
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor


def all_below_infinity(values: Tensor) -> Tensor:
    """Returns whether there is neither NaN nor +inf; -inf is what masks are made of.

    Args:
        values: Of any shape.

    Returns:
        A boolean on the same device: nobody waits for it here.
    """
    return (values < math.inf).all()


def first_fault(state: Any, name: str = "", parameters: Collection[str] = ()) -> str | None:
    """Finds a tensor whose values have become unusable.

    Args:
        state: Tensors in dictionaries and lists, nested at will; other values are not looked at.
        name: Of the whole, which the names of its tensors begin with.
        parameters: Full names of tensors in which not even -inf is allowed.

    Returns:
        The name of the first one; None where all are as they should be. Waits for the device once.
    """
    names, whole = [], []
    for key, tensor in _floats(state, name):
        names.append(key)
        whole.append(torch.isfinite(tensor).all() if key in parameters else all_below_infinity(tensor))
    by_device: dict[torch.device, list[int]] = {}
    for index, flag in enumerate(whole):
        by_device.setdefault(flag.device, []).append(index)
    faulty = [
        index
        for indices in by_device.values()
        for index, good in zip(indices, torch.stack([whole[i] for i in indices]).tolist(), strict=True)
        if not good
    ]
    return names[min(faulty)] if faulty else None


def _floats(state: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(state, Tensor):
        if state.is_floating_point():
            yield name, state.detach()
    elif isinstance(state, dict):
        for key, value in state.items():
            yield from _floats(value, f"{name}.{key}" if name else str(key))
    elif isinstance(state, (list, tuple)):
        for index, value in enumerate(state):
            yield from _floats(value, f"{name}.{index}" if name else str(index))

"""Renaming of weights by a table, such that none is lost and none is made up."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Rule(NamedTuple):
    """One line of a table.

    Attributes:
        source: Key of the other code base; each `*` stands for any part of it.
        target: Key of segbench, with as many `*`; None drops the weight.
        change: What becomes of the tensor on the way.
        reason: Why it is dropped, as the report shall say.
    """

    source: str
    target: str | None
    change: Callable[[Tensor], Tensor] | None = None
    reason: str = ""


class Translation(NamedTuple):
    """What a table makes of a checkpoint.

    Attributes:
        state: The weights under segbench's names.
        dropped: The other code base's names of what was left out, by reason.
    """

    state: dict[str, Tensor]
    dropped: dict[str, list[str]]


def translate(
    weights: Mapping[str, Tensor], table: Sequence[Rule], expected: Mapping[str, Tensor], path: object
) -> Translation:
    """Renames every weight by the first rule that knows it, and checks the result against the model.

    Args:
        weights: Of the other code base.
        table: Rules, tried in this order.
        expected: State dict of the model to be filled; only names and shapes are looked at.
        path: The file, for messages.

    Returns:
        Exactly the keys of `expected`, in their shapes, in float32.

    Raises:
        ValueError: If a key is unknown, missing or there twice, a shape is another, or a value is not a finite
            number; names the other code base's key.
    """
    state: dict[str, Tensor] = {}
    came_from: dict[str, str] = {}
    dropped: dict[str, list[str]] = {}
    unknown = []
    for source, value in weights.items():
        rule, target = _find(source, table)
        if rule is not None and rule.target is None:
            dropped.setdefault(rule.reason, []).append(source)
        elif rule is None or target not in expected:
            unknown.append(source)
        elif value.layout != torch.strided or value.is_meta or not value.is_floating_point():
            kind = "empty" if value.is_meta else f"{value.dtype}, {value.layout}"
            raise ValueError(f"{path}: {source} is {kind}, where plain weights are expected")
        elif target in state:
            raise ValueError(f"{path}: {came_from[target]} and {source} are the same weight; one is too many")
        else:
            state[target] = value if rule.change is None else rule.change(value)
            came_from[target] = source
    missing = [_source_of(target, table) for target in expected if target not in state]
    if unknown or missing:
        raise ValueError(
            f"{path} is not the network it is taken for: {_listed(len(unknown), 'unknown', unknown)}, "
            f"{_listed(len(missing), 'missing', missing)}"
        )
    for target, model_value in expected.items():
        if state[target].shape != model_value.shape:
            raise ValueError(
                f"{path}: {came_from[target]} gives {tuple(state[target].shape)}, but the configuration asks"
                f" for {tuple(model_value.shape)}"
            )
        state[target] = _plain(state[target])
        if not state[target].isfinite().all():
            raise ValueError(
                f"{path}: {came_from[target]} holds numbers that are not finite: the file is damaged, or its"
                " training diverged"
            )
    return Translation({target: state[target] for target in expected}, dropped)


def _find(source: str, table: Sequence[Rule]) -> tuple[Rule | None, str]:
    for rule in table:
        target = _rewrite(source, rule.source, rule.target or "")
        if target is not None:
            return rule, target
    return None, ""


def _source_of(target: str, table: Sequence[Rule]) -> str:
    """Names the weight that is missing as the other code base does."""
    for rule in table:
        source = None if rule.target is None else _rewrite(target, rule.target, rule.source)
        if source is not None:
            return source
    return target


def _rewrite(key: str, pattern: str, replacement: str) -> str | None:
    match = re.fullmatch(re.escape(pattern).replace(r"\*", "(.+)"), key)
    if match is None:
        return None
    parts = iter(match.groups())
    return re.sub(r"\*", lambda _: next(parts), replacement)


def _listed(count: int, what: str, keys: Sequence[str]) -> str:
    shown = ", ".join(keys[:3]) + (", …" if count > 3 else "")
    return f"{count} weights {what}" + (f" ({shown})" if keys else "")


def _plain(value: Tensor) -> Tensor:
    """Makes a tensor that is saved alone: not transposed, no part of a larger one."""
    value = value.detach().float().contiguous()
    return value if value.untyped_storage().nbytes() == value.nbytes else value.clone()

"""Configurations that are Python files, read without being run: assignments of plain values and `dict(…)`."""

import ast
from typing import Any

_LARGEST = 1 << 20  # characters; resolved configurations have some thousand


def read_python_config(text: str, origin: object) -> dict[str, Any]:
    """Reads a resolved configuration of OpenMMLab's, as checkpoints and work folders carry it.

    Args:
        text: The Python source.
        origin: Where it is from, for messages.

    Returns:
        The assigned names whose values are plain. Others are left out.

    Raises:
        ValueError: If it is no Python, or builds on other files.
    """
    try:
        if len(text) > _LARGEST:
            raise ValueError("it is too long")
        tree = ast.parse(text)
        names: dict[str, Any] = {}
        for statement in tree.body:
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                try:
                    names[statement.targets[0].id] = _value(statement.value, names)
                except _NotPlainError:
                    continue
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{origin}: the configuration is not understood ({str(error)[:80]})") from error
    if "_base_" in names:
        raise ValueError(
            f"{origin} builds on other files (_base_); give the resolved one, which MMSegmentation leaves in"
            " the work folder of every training"
        )
    return names


class _NotPlainError(Exception):
    """The value would have to be computed."""


def _value(node: ast.expr, names: dict[str, Any]) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name) and node.id in names:
        return names[node.id]
    if isinstance(node, (ast.Tuple, ast.List)):
        items = [_value(item, names) for item in node.elts]
        return tuple(items) if isinstance(node, ast.Tuple) else items
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        number = _value(node.operand, names)
        if isinstance(number, (int, float)):
            return -number
    if isinstance(node, ast.Dict):
        found: dict[str, Any] = {}
        for key, value in zip(node.keys, node.values, strict=True):
            entry = _value(value, names)
            found.update(_mapping(entry) if key is None else {str(_value(key, names)): entry})
        return found
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "dict"
        and not node.args
    ):
        found = {}
        for keyword in node.keywords:
            entry = _value(keyword.value, names)
            found.update(_mapping(entry) if keyword.arg is None else {keyword.arg: entry})
        return found
    raise _NotPlainError


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _NotPlainError
    return value

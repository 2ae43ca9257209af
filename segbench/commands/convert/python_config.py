"""Configurations that are Python files, read without being run: assignments of plain values and `dict(…)`."""

import ast
from collections.abc import Iterable
from typing import Any

from segbench.commands.convert.settings import Computed

_LARGEST = 1 << 20  # characters; resolved configurations have some thousand


def read_python_config(text: str, origin: object) -> dict[str, Any]:
    """Reads a resolved configuration of OpenMMLab's, as checkpoints and work folders carry it.

    Args:
        text: The Python source.
        origin: Where it is from, for messages.

    Returns:
        The assigned names; what is not plain in their values is `Computed`.

    Raises:
        ValueError: If it is not Python, does more than assign, or builds on other files.
    """
    try:
        if len(text) > _LARGEST:
            raise ValueError("it is too long")
        tree = ast.parse(text)
        names: dict[str, Any] = {}
        for statement in tree.body:
            if isinstance(statement, ast.Assign) and all(isinstance(t, ast.Name) for t in statement.targets):
                value = _value(statement.value, names)
                names.update({target.id: value for target in statement.targets if isinstance(target, ast.Name)})
            elif not isinstance(statement, (ast.Import, ast.ImportFrom, ast.Expr)):
                raise ValueError(f"line {statement.lineno} is not an assignment; give the resolved one")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{origin}: the configuration is not understood ({str(error)[:80]})") from error
    if "_base_" in names:
        raise ValueError(
            f"{origin} builds on other files (_base_); give the resolved one, which MMSegmentation leaves in"
            " the work folder of every training"
        )
    return names


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
        keys = [None if key is None else str(_value(key, names)) for key in node.keys]
        return _merged(zip(keys, node.values, strict=True), names)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        # OpenMMLab writes dict({'a.b': …}) where a key is not a name.
        positional = [(None, argument) for argument in node.args[:1]]
        return _merged([*positional, *((word.arg, word.value) for word in node.keywords)], names)
    return Computed()


def _merged(entries: Iterable[tuple[str | None, ast.expr]], names: dict[str, Any]) -> dict[str, Any] | Computed:
    """Puts a dictionary together; what has no key of its own is a dictionary whose entries come in."""
    found: dict[str, Any] = {}
    for key, node in entries:
        value = _value(node, names)
        if key is not None:
            found[key] = value
        elif isinstance(value, dict):
            found.update(value)
        else:
            return Computed()
    return found

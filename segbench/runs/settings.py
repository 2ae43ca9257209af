"""Configuration values in a few words, for tables."""

from typing import Any

from segbench.utils.printable import escape_controls


def format_value(value: Any) -> str:
    """Writes a value as short as it can be told from others.

    Args:
        value: As YAML and JSON have it.

    Returns:
        `MeanShift(iterations=2, dim=64)` for a class with its options, `null` for None; else much as YAML.
    """
    if isinstance(value, dict) and "class_path" in value:
        options = value.get("init_args") or {}
        listed = ", ".join(f"{name}={format_value(option)}" for name, option in options.items())
        return format_class(str(value["class_path"])) + (f"({listed})" if listed else "")
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {format_value(entry)}" for name, entry in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(format_value, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else format_class(escape_controls(str(value)))


def format_class(name: str) -> str:
    """Leaves out the module of a class.

    Args:
        name: As `segbench.necks.mean_shift.MeanShift`; anything else is returned as it is.

    Returns:
        As `MeanShift`.
    """
    parts = name.split(".")
    is_class = len(parts) > 2 and all(map(str.isidentifier, parts)) and parts[-1][0].isupper()
    return parts[-1] if is_class else name


def last_key(key: str) -> str:
    """Names a setting without where it lies.

    Args:
        key: As `model.init_args.optimizer.init_args.lr`.

    Returns:
        As `lr`; of a class the part that it is, as `decoder` or `necks.0`.
    """
    parts = [part for part in key.split(".") if part != "init_args"]
    if parts[-1] == "class_path" and len(parts) > 1:
        del parts[-1]
    return ".".join(parts[-2:]) if parts[-1].isdigit() else parts[-1]

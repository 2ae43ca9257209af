"""Checks before parsing: configuration files on the command line, and YAML in braces."""

import re
from collections.abc import Sequence
from pathlib import Path

import yaml

from segbench.parsing.names import close_matches
from segbench.utils.yaml_files import check_yaml, read_text


def check_words(words: list[str], configured: bool = True) -> dict[str, str]:
    """Reads the configuration files of a command line, and checks YAML values in braces.

    Args:
        words: The command line.
        configured: Whether `--config` gives a configuration of segbench.

    Returns:
        Contents of the files by their paths as given.

    Raises:
        ValueError: If YAML is invalid. The message has the file and line, or the option.
    """
    texts: dict[str, str] = {}
    for index, word in enumerate(words):
        option, given, value = word.partition("=")
        if not option.startswith("-"):
            continue
        if re.fullmatch(r"-c\w+", option):
            raise ValueError(f"unknown option {option}; did you mean -{option}?")
        if ".init_args." in option and option.endswith(".help"):
            raise ValueError(
                f"unknown option {option}; `segbench fit --help` lists the options of every class, and "
                "--model.help CLASS and --data.help CLASS those of one"
            )
        if not given:
            value = words[index + 1] if index + 1 < len(words) else ""
        if (
            option.startswith("--data")
            and not value.isascii()
            and value != value.encode(errors="ignore").decode()
        ):
            shown = value.encode(errors="surrogateescape").decode(errors="backslashreplace")
            raise ValueError(f"{option}: {shown} is not UTF-8, as configurations require: rename the folder")
        if configured and option in {"--config", "-c"} and value and "\n" not in value and value[:1] != "{":
            texts[value] = _read_config(value)
        elif value[:1] in {"{", "["}:
            _check_value(option, value, [] if given else words[index + 2 :])
    return texts


def _read_config(value: str) -> str:
    path = Path(value)
    if not path.exists():
        folder = path.parent if path.parent.is_dir() else Path()
        files = [file.name for file in folder.glob("*.y*ml")]
        stems = close_matches(path.stem, [Path(name).stem for name in files])
        names = [name for name in files if Path(name).stem in stems]
        hint = f"; did you mean {' or '.join(str(path.parent / name) for name in names)}?" if names else ""
        raise ValueError(f"--config: file not found: {value}{hint}")
    text = read_text(path)
    check_yaml(text, value)
    root = yaml.compose(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    if not isinstance(root, yaml.MappingNode):
        kind = (
            "is empty"
            if root is None
            else f"contains {'a list' if isinstance(root, yaml.SequenceNode) else 'text'} only"
        )
        raise ValueError(f"{value} {kind}; a configuration has keys, such as model, data and trainer")
    return text


def _check_value(option: str, value: str, following: Sequence[str]) -> None:
    """Refuses invalid YAML on the command line, often split by the shell."""
    try:
        check_yaml(value, option)
    except ValueError as error:
        close = {"{": "}", "[": "]"}[value[0]]
        rest = next((index for index, word in enumerate(following) if word.endswith(close)), None)
        if value.endswith(close) or rest is None:
            message = str(error).replace(", line 1: ", f" {value}: ", 1).replace(", first in line 1", "")
            raise ValueError(message) from None
        whole = " ".join([value, *following[: rest + 1]])
        raise ValueError(
            f"{option}: the shell splits values at spaces; quote them: {option} '{whole}'"
        ) from None

"""The `command:` of a sweep file, and what it becomes for a trial.

As W&B's agent does it, of whose macros those are understood that keep values as they are: `${args_json_file}`,
`${args}` for plain text and numbers, `${envvar:NAME}`, and `${env}` and `${interpreter}` in front.
"""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from segbench.commands.sweep.space import Point
from segbench.utils.files import naming

VERBS = ("fit", "test", "validate")
_VARIABLE = re.compile(r"\$\{envvar:([A-Z0-9_]*)\}")
_IN_FRONT = ("${env}", "${interpreter}", "python", "python3", "-m")
_WHOLE = ("config", "overlay")  # whole configurations, over which single settings go
_MACROS = {"${args}", "${args_json_file}"}


class Command(NamedTuple):
    """A command that can be filled in.

    Attributes:
        verb: Of segbench.
        words: What follows, macros included.
        more: Further arguments: over what the file's configurations say, under what it varies.
    """

    verb: str
    words: tuple[str, ...]
    more: tuple[str, ...] = ()

    def fill(self, point: Point, file: Path) -> list[str]:
        """Puts values in the place of macros, and writes the file of `${args_json_file}`.

        Args:
            point: The trial's values.
            file: JSON to be written.

        Returns:
            Arguments of `segbench`, the verb first.

        Raises:
            ValueError: If a value cannot be said by `${args}`.
        """
        words = [self.verb]
        for word in self.words:
            if word == "${args_json_file}":
                words[-1:] = [*self.more, words[-1]]  # before its --config
                file.parent.mkdir(parents=True, exist_ok=True)
                with naming(file):
                    file.write_text(json.dumps(point, indent=1) + "\n", encoding="utf-8")
                words.append(str(file))
            elif word == "${args}":
                flags = {name: _flag(name, value) for name, value in point.items()}
                words += [flag for name, flag in flags.items() if name in _WHOLE]
                words += [*self.more, *(flag for name, flag in flags.items() if name not in _WHOLE)]
            else:
                words.append(word)
        return words


def read_command(given: Any, more: Sequence[str], where: str) -> Command:
    """Reads `command:`.

    Args:
        given: As in the file.
        more: Further arguments for every trial.
        where: The file, for messages.

    Returns:
        The command.

    Raises:
        ValueError: If it is none of segbench's, or has a macro that is not understood.
    """
    example = "[segbench, fit, --config, experiments/NAME.yaml, --config, '${args_json_file}']"
    if not isinstance(given, list) or not all(isinstance(word, (str, int, float)) for word in given):
        raise ValueError(f"{where}: command is {given!r}; write {example}")
    words = [_VARIABLE.sub(lambda found: _variable(found[1], where), str(word)) for word in given]
    while words and words[0] in _IN_FRONT:
        del words[0]
    if len(words) < 2 or words[0] not in ("segbench", "${program}") or words[1] not in VERBS:
        raise ValueError(f"{where}: command is none of segbench {' | '.join(VERBS)}; write {example}")
    verb, words = words[1], words[2:]
    if unknown := [word for word in words if word.startswith("${") and word not in _MACROS]:
        raise ValueError(f"{where}: command has {unknown[0]}; use ${{args_json_file}}, which keeps all values")
    places = [index for index, word in enumerate(words) if word in _MACROS]
    if len(places) != 1:
        raise ValueError(f"{where}: command needs the trial's values once; write {example}")
    before = words[places[0] - 1] if places[0] else ""
    if words[places[0]] == "${args_json_file}" and before not in ("--config", "-c", "--overlay"):
        raise ValueError(f"{where}: command needs --config before ${{args_json_file}}; write {example}")
    return Command(verb, tuple(words), tuple(more))


def _variable(name: str, where: str) -> str:
    if name not in os.environ:
        raise ValueError(f"{where}: command needs the environment variable {name}; set it")
    return os.environ[name]


def _flag(name: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"{name} is {value!r}, which ${{args}} would garble; use --config ${{args_json_file}}")
    return f"--{name}={value}"

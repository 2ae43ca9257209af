"""One readable line for a user's mistake, instead of a traceback."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

TRACEBACK_VARIABLE = "SEGBENCH_TRACEBACK"

# What jsonargparse wraps around the one line that tells: the alternatives it tried, and what it was given.
_NOISE = re.compile(
    r"^(Does not validate against any of the Union subtypes|Subtypes: |Errors:|Given value|Expected a path but "
    r"|Expected a <class 'NoneType'>$|$)"
)
# gloo's, NCCL's, and those of the store through which processes find each other.
_LOST = re.compile(r"\bgloo\b|NCCL|TCPStore|Connection (closed|reset|refused)|failed to recv|Broken pipe")
_LINK = re.compile(r"^Call to compute_fn of link .*? with args .*? failed: ", re.DOTALL)
_CALLABLE = re.compile(r"^Type collections\.abc\.Callable\[.*?\] expects a function or a callable class: ")


@contextmanager
def one_line_errors(*more: type[Exception]) -> Iterator[None]:
    """Turns a mistake of the user into one line on stderr and exit status 2.

    With `SEGBENCH_TRACEBACK=1` in the environment the traceback is shown instead.

    Args:
        more: Exceptions taken for mistakes beside `ValueError` and `OSError`.

    Raises:
        SystemExit: With status 2 after a mistake.
    """
    mistakes: tuple[type[Exception], ...] = (ValueError, OSError, *more)
    try:
        yield
    except mistakes as error:
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        print(f"segbench: error: {readable(error)} [{TRACEBACK_VARIABLE}=1 shows where]", file=sys.stderr)
        raise SystemExit(2) from error


@contextmanager
def lost_processes() -> Iterator[None]:
    """Says in words what a collective operation tells where another process of the run is no longer there.

    Raises:
        ValueError: In place of the operation's own error.
    """
    try:
        yield
    except RuntimeError as error:
        if not _LOST.search(str(error)):
            raise
        raise ValueError(
            "another process of this run has ended or cannot be reached; what it said stands above, or on its "
            "own machine. The run folder is whole: `segbench fit --resume RUN` goes on from its last checkpoint"
        ) from error


def readable(error: BaseException) -> str:
    """Reduces an exception to its one telling line.

    Args:
        error: Raised here, in a worker process of a DataLoader, whose traceback is then part of the message, or
            by jsonargparse, which nests messages.

    Returns:
        Without line breaks.
    """
    message = _LINK.sub("", str(error).strip()) or type(error).__name__
    if isinstance(error, OSError) and error.filename:
        return f"{error.strerror}: {error.filename}"
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    if lines[0].startswith("Caught ") and "DataLoader worker" in lines[0]:
        # torch appends the worker's traceback; its last line is "ValueError: what went wrong".
        return lines[-1].partition(": ")[2] or lines[-1]
    keys, told = [], []
    for line in (_CALLABLE.sub("", line) for line in lines):
        if key := re.fullmatch(r'Parser key "(.+?)":', line):
            keys.append(key[1])
        elif problem := re.fullmatch(r"Problem with given class_path '(.+)':", line):
            keys.append(f"({problem[1]})")
        elif not _NOISE.match(line):
            told.append(_plain(line.partition(". Got value: Namespace(")[0]))
    text = "; ".join(dict.fromkeys(told)) or " ".join(lines)
    if re.search(r"arguments are required: (fit|validate|test|predict)\.", text):
        text += "; give them by --config experiments/NAME.yaml"
    elif re.search(r"Option '\S+' is not accepted", text):
        text += "; `segbench fit --model.help CLASS` and `--data.help CLASS` list what is"
    return f"{' '.join(keys)}: {text}" if keys else text


def _plain(line: str) -> str:
    """Says in words which values a type allows."""
    line = re.sub(r"Expected a typing\.Literal\[(.+?)\]\. Got value: ", r"choose one of \1; got ", line)
    return re.sub(r"Expected a <class '(\w+)'>", r"give a \1", line)

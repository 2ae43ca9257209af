"""User errors as one readable line instead of a traceback."""

import os
import re
import select
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segbench.utils.failures import explain
from segbench.utils.printable import escape_controls, without_passwords

TRACEBACK_VARIABLE = "SEGBENCH_TRACEBACK"
_PACKAGE = Path(__file__).parents[1]

# Lines of jsonargparse around the informative one: the alternatives it tried, and the value.
_NOISE = re.compile(
    r"^(Does not validate against any of the Union subtypes|Subtypes: |Errors:|Given value|Expected a path but "
    r"|Expected a <class 'NoneType'>$|$)"
)
_LINK = re.compile(r"^Call to compute_fn of link .*? with args .*? failed: ", re.DOTALL)
_CALLABLE = re.compile(r"^Type collections\.abc\.Callable\[.*?\] expects a function or a callable class: ")


# Exceptions that libraries raise for user errors: package and class. By name, since importing them takes
# seconds.
_OF_LIBRARIES = {
    ("lightning", "MisconfigurationException"),
    ("argparse", "ArgumentError"),
    ("optuna", "OptunaError"),
    ("sqlalchemy", "SQLAlchemyError"),  # behind optuna's storages
    ("wandb", "Error"),
    ("PIL", "DecompressionBombError"),
    ("cv2", "error"),
    ("yaml", "YAMLError"),
    ("safetensors", "SafetensorError"),
    ("huggingface_hub", "HfHubHTTPError"),
    ("zipfile", "BadZipFile"),
}


@contextmanager
def one_line_errors(verb: str = "") -> Iterator[None]:
    """Ends the process with one line on stderr after a user error, exhausted resources or an interrupt.

    With `SEGBENCH_TRACEBACK=1` in the environment, the traceback of an error is shown instead. Other exceptions
    are bugs of segbench and propagate.

    Args:
        verb: Command that runs; determines which options a message recommends.

    Raises:
        SystemExit: With status 2 after an error, 130 after Ctrl-C.
    """
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise _stopped(interrupt) from None
    except SystemExit as leaving:
        cause = None if leaving.__suppress_context__ else leaving.__context__
        if isinstance(cause, KeyboardInterrupt):  # which Lightning converts to status 1
            raise _stopped(cause) from None
        raise
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _reader_has_ended():
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what Python flushes at its end
            raise SystemExit(141) from None  # 128 + SIGPIPE, as a shell reports it
        line = one_line(error, verb)
        if line is None or os.environ.get(TRACEBACK_VARIABLE):
            raise
        line = escape_controls(without_passwords(line))
        print(f"segbench: error: {line} [{TRACEBACK_VARIABLE}=1 shows where]", file=sys.stderr)
        raise SystemExit(2) from error


def _reader_has_ended() -> bool:
    """Whether standard output is a pipe that nobody reads any more, as with `segbench options | head`."""
    if not hasattr(select, "poll"):
        return False
    poll = select.poll()
    poll.register(1, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


@contextmanager
def one_line_warnings() -> Iterator[None]:
    """Prints each warning on one line, without control characters and the source line that raised it."""

    def format_warning(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        line: str | None = None,  # noqa: ARG001 (name given by Python)
    ) -> str:
        own = Path(filename).is_relative_to(_PACKAGE)
        origin = "segbench: warning" if own else f"{filename}:{lineno}: {category.__name__}"
        return f"{origin}: {escape_controls(' '.join(str(message).split()))}\n"

    before = warnings.formatwarning
    warnings.formatwarning = format_warning
    try:
        yield
    finally:
        warnings.formatwarning = before


def one_line(error: BaseException, verb: str = "") -> str | None:
    """Describes an error that the user can fix in one line.

    Args:
        error: The exception.
        verb: Command that runs; determines which options are recommended.

    Returns:
        The line; None for a bug of segbench, which keeps its traceback.
    """
    message = readable(error)
    line = explain(error, message, verb)
    if line is None and error.__cause__ is not None:  # exhausted resources, reported by another exception
        line = explain(error.__cause__, readable(error.__cause__), verb)
    if line is None:
        names = {(kind.__module__.partition(".")[0], kind.__name__) for kind in type(error).__mro__}
        if not isinstance(error, (ValueError, OSError)) and not names & _OF_LIBRARIES:
            return None
        line = message
    return "; ".join([line, *getattr(error, "__notes__", ())])


def _stopped(interrupt: KeyboardInterrupt) -> SystemExit:
    if os.environ.get("LOCAL_RANK", "0") == "0":  # Ctrl-C reaches all processes of a run
        print("; ".join(["segbench: stopped", *getattr(interrupt, "__notes__", ())]), file=sys.stderr)
    return SystemExit(128 + signal.SIGINT)


def readable(error: BaseException) -> str:
    """Reduces the message of an exception to one informative line.

    Args:
        error: Raised in this process, by jsonargparse, which nests messages, or in a worker process of a
            DataLoader, whose traceback is then part of the message.

    Returns:
        The line, without line breaks.
    """
    message = _LINK.sub("", str(error).strip()) or type(error).__name__
    if isinstance(error, OSError) and error.filename:
        return f"{error.strerror}: {error.filename}"
    message = re.sub(r"\[Errno \d+\] (.+?): '(.+)'$", r"\1: \2", message)  # from a worker, as text
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    if lines[0].startswith("Caught ") and "DataLoader worker" in lines[0]:
        # torch appends the worker's traceback; its last line is "ValueError: what went wrong".
        return lines[-1].partition(": ")[2] or lines[-1]
    keys, parts = [], []
    for line in (_CALLABLE.sub("", line) for line in lines):
        if key := re.fullmatch(r'Parser key "(.+?)":', line):
            keys.append(key[1])
        elif problem := re.fullmatch(r"Problem with given class_path '(.+)':", line):
            keys.append(f"({problem[1]})")
        elif not _NOISE.match(line):
            parts.append(_rephrase(line.partition(". Got value: Namespace(")[0]))
    text = "; ".join(dict.fromkeys(parts)) or " ".join(lines)
    if re.search(r"arguments are required: (fit|validate|test|predict)\.", text):
        text += "; give them by --config experiments/NAME.yaml"
    elif re.search(r"Option '\S+' is not accepted", text):
        text += "; `segbench fit --model.help CLASS` and `--data.help CLASS` list the accepted ones"
    return f"{' '.join(keys)}: {text}" if keys else text


def _rephrase(line: str) -> str:
    """Replaces type hints in a message by the values they allow."""
    line = re.sub(r"Expected a typing\.Literal\[(.+?)\]\. Got value: ", r"choose one of \1; got ", line)
    return re.sub(r"Expected a <class '(\w+)'>", r"give a \1", line)

"""One readable line for a user's mistake, instead of a traceback."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

TRACEBACK_VARIABLE = "SEGBENCH_TRACEBACK"


@contextmanager
def one_line_errors(*more: type[Exception]) -> Iterator[None]:
    """Turns a mistake of the user into one line on stderr and exit status 2.

    With `SEGBENCH_TRACEBACK=1` in the environment the traceback is shown as well.

    Args:
        more: Exceptions taken for mistakes beside `ValueError` and `OSError`.

    Raises:
        SystemExit: With status 2 after a mistake.
    """
    try:
        yield
    except (ValueError, OSError, *more) as error:
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        print(f"segbench: error: {readable(error)} [{TRACEBACK_VARIABLE}=1 shows where]", file=sys.stderr)
        raise SystemExit(2) from error


def readable(error: BaseException) -> str:
    """Reduces an exception to its one telling line.

    Args:
        error: Raised here, or in a worker process of a DataLoader, whose traceback is then part of the message.

    Returns:
        Without line breaks.
    """
    message = str(error).strip() or type(error).__name__
    if isinstance(error, OSError) and error.filename:
        message = f"{error.strerror}: {error.filename}"
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if lines[0].startswith("Caught ") and "DataLoader worker" in lines[0]:
        # torch appends the worker's traceback; its last line is "ValueError: what went wrong".
        return lines[-1].partition(": ")[2] or lines[-1]
    return " ".join(lines)

"""`segbench VERB …` and `python -m segbench VERB …`."""

import os
import signal
import sys
from pathlib import Path
from types import FrameType

from segbench.utils.posix import STOP_SIGNALS, is_importing, stop_at_start

# Threads that spin for long while they wait made many small operations up to fifty times slower where
# something else (loader workers, another run) shared the cores; threads that sleep at once made them up to four
# times slower on idle cores. So they spin for a moment, as GNU's runtime, which torch has on Linux, reads from
# the second variable. Read when torch is imported, so they are set before; who has chosen a policy keeps it.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def main(args: list[str] | None = None) -> None:
    """Runs one verb.

    Args:
        args: As on the command line; default: what the process was given.

    Raises:
        SystemExit: With status 2 and one line on stderr after a user's mistake, 130 after Ctrl-C.
    """
    if args is None:
        signal.signal(signal.SIGINT, _interrupt)
        sys.path.append(str(Path.cwd()))  # a decoder in the user's own folder, as `python -m` would find it
        args = sys.argv[1:]
        if args[:1] == ["fit"]:
            for number in STOP_SIGNALS:
                signal.signal(number, stop_at_start)
    from segbench import cli

    cli.main(args)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Ends the process at once while it imports modules, most of a start; otherwise raises as usual."""
    if not is_importing(frame):
        raise KeyboardInterrupt
    if os.environ.get("LOCAL_RANK", "0") == "0":  # Ctrl-C reaches all processes of a run
        os.write(2, b"\nsegbench: stopped\n")
    os._exit(128 + number)  # no file is being written then


if __name__ == "__main__":
    main()

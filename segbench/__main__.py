"""Entry point of `segbench COMMAND …` and `python -m segbench COMMAND …`."""

import os
import signal
import sys
from pathlib import Path
from types import FrameType

from segbench.utils.posix import STOP_SIGNALS, is_importing, stop_at_start

# OpenMP threads that spin for long while they wait make many small operations up to fifty times slower when
# something else (loader workers, another run) uses the same cores; threads that sleep at once make them up to
# four times slower on idle cores. So they spin briefly: the GNU runtime of torch on Linux reads the spin count
# from the second variable. Both must be set before torch is imported. A policy chosen by the user is kept.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def main(args: list[str] | None = None) -> None:
    """Runs one command.

    Args:
        args: The command line without the program; default: `sys.argv[1:]`.

    Raises:
        SystemExit: With status 2 and one line on stderr after a user error, 130 after Ctrl-C.
    """
    if args is None:
        signal.signal(signal.SIGINT, _interrupt)
        sys.path.append(str(Path.cwd()))  # finds a decoder in the current folder, as `python -m` does
        args = sys.argv[1:]
        if args[:1] == ["fit"]:
            for number in STOP_SIGNALS:
                signal.signal(number, stop_at_start)
    from segbench import cli

    cli.main(args)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Exits at once while modules are being imported, most of the start-up time; otherwise raises as usual."""
    if not is_importing(frame):
        raise KeyboardInterrupt
    if os.environ.get("LOCAL_RANK", "0") == "0":  # Ctrl-C reaches all processes of a run
        os.write(2, b"\nsegbench: stopped\n")
    os._exit(128 + number)  # no file is being written during imports


if __name__ == "__main__":
    main()

"""`segbench VERB …` and `python -m segbench VERB …`."""

import os
import sys

from segbench.verbs import run

# Threads that wait by spinning make many small operations fifty times slower wherever something else (loader
# workers, another run) shares the cores. Read when torch is imported, so it is set before.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def main(args: list[str] | None = None) -> None:
    """Runs one verb.

    Args:
        args: As on the command line; default: what the process was given.

    Raises:
        SystemExit: With status 2 and one line on stderr after a user's mistake.
    """
    run(sys.argv[1:] if args is None else args)


if __name__ == "__main__":
    main()

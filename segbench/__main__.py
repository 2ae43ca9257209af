"""`segbench VERB …` and `python -m segbench VERB …`."""

import os
import sys
from pathlib import Path

from segbench.verbs import run

# Threads that wait by spinning made many small operations up to fifty times slower where something else (loader
# workers, another run) shared the cores. On idle cores a training step takes some 3 % longer for it. Read when
# torch is imported, so it is set before.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def main(args: list[str] | None = None) -> None:
    """Runs one verb.

    Args:
        args: As on the command line; default: what the process was given.

    Raises:
        SystemExit: With status 2 and one line on stderr after a user's mistake.
    """
    if args is None:
        sys.path.append(str(Path.cwd()))  # a decoder in the user's own folder, as `python -m` would find it
        args = sys.argv[1:]
    run(args)


if __name__ == "__main__":
    main()

"""`segbench VERB …` and `python -m segbench VERB …`."""

import sys

from segbench.verbs import run


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

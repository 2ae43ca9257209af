"""A process that reads one damaged file after the other and says, a line of JSON for each, what came of it."""

import json
import os
import random
import resource
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

SECONDS = 15  # of the processor, so that a busy machine changes nothing
GIB = 2**30
MEMORY = 1.4 * GIB  # beside what a command has to begin with, so that the whole stays below 2


class Hang(BaseException):
    """A file has taken too long."""


def work(jobs: list[tuple[str, int, int]], seed: int) -> None:
    """Reads damaged files, in the workshop.

    Args:
        jobs: Target, number of its first file, number after its last.
        seed: Decides on all damage.
    """
    from peak import peak, resident
    from targets import targets

    resource.setrlimit(resource.RLIMIT_DATA, (4 * GIB, 4 * GIB))  # for the safety of the machine
    known = targets()
    for name, start, stop in jobs:
        place = Path(known[name].seed)
        whole = place.read_bytes()
        for number in range(start, stop):
            print(json.dumps({"name": name, "begin": number}), flush=True)
            place.write_bytes(known[name].damage(whole, random.Random(f"{seed} {name} {number}")))
            before = resident()  # which grows over thousands of files
            fault = fault_of(known[name].read)
            grown = peak() - before
            if fault is None and grown > MEMORY:
                fault = f"{grown / GIB:.1f} GiB of memory"
            print(json.dumps({"name": name, "end": number, "fault": fault}), flush=True)
        place.write_bytes(whole)


def fault_of(read: Callable[[], object], seconds: float = SECONDS) -> str | None:
    """Calls what reads a file.

    Args:
        read: It.
        seconds: Of the processor that it may take.

    Returns:
        What is wrong with the outcome: anything but success or an error of one line.
    """

    def stop(*_: object) -> None:
        raise Hang

    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read()
    except Hang:
        return f"more than {seconds} s"
    except (ValueError, OSError) as error:
        lines = str(error).strip().splitlines()
        return f"a message of {len(lines)} lines: {error}"[:2000] if len(lines) != 1 else None
    except BaseException:
        return traceback.format_exc()[-3000:]
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return None


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    work(json.loads(sys.argv[1]), int(sys.argv[2]))

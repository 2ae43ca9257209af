"""A process that reads damaged files one by one and prints the outcome of each as a line of JSON."""

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

SECONDS = 15  # of CPU time, so that the load of the machine does not matter
GIB = 2**30
MEMORY = 1.4 * GIB  # in addition to that of an idle command, so that the total stays below 2


class Hang(BaseException):
    """A file took too long."""


def work(jobs: list[tuple[str, int, int]], seed: int) -> None:
    """Reads damaged files in the workshop.

    Args:
        jobs: Target, number of its first file, number after its last file.
        seed: Seed of all damage.
    """
    from peak import peak, resident
    from targets import targets

    resource.setrlimit(resource.RLIMIT_DATA, (4 * GIB, 4 * GIB))  # protects the machine
    known = targets()
    for name, start, stop in jobs:
        path = Path(known[name].seed)
        whole = path.read_bytes()
        for number in range(start, stop):
            print(json.dumps({"name": name, "begin": number}), flush=True)
            path.write_bytes(known[name].damage(whole, random.Random(f"{seed} {name} {number}")))
            before = resident()  # which grows over thousands of files
            failure = failure_of(known[name].read)
            grown = peak() - before
            if failure is None and grown > MEMORY:
                failure = f"{grown / GIB:.1f} GiB of memory"
            print(json.dumps({"name": name, "end": number, "failure": failure}), flush=True)
        path.write_bytes(whole)


def failure_of(read: Callable[[], object], seconds: float = SECONDS) -> str | None:
    """Calls a reader.

    Args:
        read: Reads a file.
        seconds: Limit of CPU time.

    Returns:
        Description of a failure; None after success or an error of one line.
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

"""Reads hundreds of damaged files of every kind: `make fuzz`, or `python tests/fuzzing/run.py --help`.

A file must be read, or be refused by a ValueError or OSError of one line: no traceback, no more than 15 s of
the processor, no more than 2 GiB.
"""

import argparse
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TextIO

HERE = Path(__file__).parent
SILENCE = 300  # seconds on the clock after which a process that says nothing is given up


class Fault(NamedTuple):
    """A damaged file that was neither read nor refused as it should be.

    Attributes:
        target: Its kind.
        number: Repeats it: `run.py TARGET --first NUMBER --count 1`.
        what: Traceback, or what else was wrong.
    """

    target: str
    number: int
    what: str


def fuzz(workshop: Path, names: Sequence[str], count: int, seed: int = 0, first: int = 0) -> list[Fault]:
    """Reads damaged files in as many processes as there are processors.

    Args:
        workshop: Of `targets.build`.
        names: Targets.
        count: Files of each.
        seed: Decides on all damage.
        first: Number of the first file of each.

    Returns:
        All faults.
    """
    processes = min(os.cpu_count() or 1, len(names))
    shares = [[(name, first, first + count) for name in names[rank::processes]] for rank in range(processes)]
    with ThreadPoolExecutor(processes) as pool:
        found = pool.map(lambda rank: _share(workshop, rank, shares[rank], seed), range(processes))
        return [fault for faults in found for fault in faults]


def _share(workshop: Path, rank: int, jobs: list[tuple[str, int, int]], seed: int) -> list[Fault]:
    """Works on a copy of the workshop, in one process after the other where one dies or hangs."""
    copy = workshop.with_name(f"{workshop.name}-{rank}")
    faults: list[Fault] = []
    while jobs:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(workshop, copy)
        jobs = _one_process(copy, jobs, seed, faults)
    shutil.rmtree(copy, ignore_errors=True)
    return faults


def _one_process(
    folder: Path, jobs: list[tuple[str, int, int]], seed: int, faults: list[Fault]
) -> list[tuple[str, int, int]]:
    """Runs a worker until it ends or is given up.

    Returns:
        The jobs that are left.
    """
    path = os.pathsep.join([*map(str, (HERE, *HERE.parents[:2])), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(HERE / "worker.py"), json.dumps(jobs), str(seed)]
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with (
        (folder / "stderr.txt").open("w+") as errors,
        subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        ) as process,
    ):
        return _follow(process, errors, jobs, faults)


def _follow(
    process: "subprocess.Popen[str]", errors: TextIO, jobs: list[tuple[str, int, int]], faults: list[Fault]
) -> list[tuple[str, int, int]]:
    lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_pass_on, args=(process.stdout, lines), daemon=True).start()
    name, number = jobs[0][:2]
    while True:
        try:
            line = lines.get(timeout=SILENCE)
        except queue.Empty:
            process.kill()
            line = None
        if line is None:
            break
        if line.startswith('{"name"'):  # else a reader has printed something
            told = json.loads(line)
            name, number = told["name"], told.get("begin", told.get("end"))
            if told.get("fault") is not None:
                faults.append(Fault(name, number, told["fault"]))
    if process.wait() == 0:
        return []
    errors.seek(0)
    faults.append(Fault(name, number, f"the process ended by {process.returncode}: {errors.read()[-1500:]}"))
    left = jobs[[job[0] for job in jobs].index(name) :]
    return [(name, number + 1, left[0][2]), *left[1:]]


def _pass_on(stream: Iterable[str], lines: "queue.Queue[str | None]") -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def main() -> None:
    """Fuzzes from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="targets; default: all")
    parser.add_argument("--count", type=int, default=300, help="damaged files of each target")
    parser.add_argument("--first", type=int, default=0, help="number of the first, to repeat a single one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("fuzzing"), help="where to work; made if missing")
    args = parser.parse_args()
    sys.path[:0] = map(str, (HERE, *HERE.parents[:2]))
    from targets import build, targets

    workshop = args.folder.absolute() / "workshop"
    if not workshop.is_dir():
        build(workshop)
    names = args.names or list(targets())
    faults = fuzz(workshop, names, args.count, args.seed, args.first)
    for fault in faults:
        print(f"{fault.target} {fault.number}: {fault.what.strip()}\n", flush=True)
    print(f"{len(names)} kinds, {args.count} files of each, {len(faults)} faults")
    raise SystemExit(1 if faults else 0)


if __name__ == "__main__":
    main()

"""Reads hundreds of damaged files of every type: `make fuzz`, or `python tests/fuzzing/run.py --help`.

A file must be read, or refused with a ValueError or OSError of one line: no traceback, at most 15 s of CPU
time, at most 2 GiB of memory.
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
SILENCE = 300  # seconds without output after which a process is killed


class Failure(NamedTuple):
    """A damaged file that was neither read nor refused properly.

    Attributes:
        target: Name of the target.
        number: Number of the file; `run.py TARGET --first NUMBER --count 1` repeats it.
        what: Traceback or description.
    """

    target: str
    number: int
    what: str


def fuzz(workshop: Path, names: Sequence[str], count: int, seed: int = 0, first: int = 0) -> list[Failure]:
    """Reads damaged files in one process per CPU.

    Args:
        workshop: Folder of `targets.build`.
        names: Targets.
        count: Number of damaged files of each target.
        seed: Seed of all damage.
        first: Number of the first file of each target.

    Returns:
        All failures.
    """
    processes = min(os.cpu_count() or 1, len(names))
    shares = [[(name, first, first + count) for name in names[rank::processes]] for rank in range(processes)]
    with ThreadPoolExecutor(processes) as pool:
        found = pool.map(lambda rank: _share(workshop, rank, shares[rank], seed), range(processes))
        return [failure for failures in found for failure in failures]


def _share(workshop: Path, rank: int, jobs: list[tuple[str, int, int]], seed: int) -> list[Failure]:
    """Works on a copy of the workshop; replaces processes that die or hang."""
    copy = workshop.with_name(f"{workshop.name}-{rank}")
    failures: list[Failure] = []
    while jobs:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(workshop, copy)
        jobs = _one_process(copy, jobs, seed, failures)
    shutil.rmtree(copy, ignore_errors=True)
    return failures


def _one_process(
    folder: Path, jobs: list[tuple[str, int, int]], seed: int, failures: list[Failure]
) -> list[tuple[str, int, int]]:
    """Runs a worker until it ends or is killed.

    Returns:
        The remaining jobs.
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
        return _follow(process, errors, jobs, failures)


def _follow(
    process: "subprocess.Popen[str]", errors: TextIO, jobs: list[tuple[str, int, int]], failures: list[Failure]
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
        if line.startswith('{"name"'):  # otherwise output of a reader
            result = json.loads(line)
            name, number = result["name"], result.get("begin", result.get("end"))
            if result.get("failure") is not None:
                failures.append(Failure(name, number, result["failure"]))
    if process.wait() == 0:
        return []
    errors.seek(0)
    failures.append(
        Failure(name, number, f"the process ended by {process.returncode}: {errors.read()[-1500:]}")
    )
    left = jobs[[job[0] for job in jobs].index(name) :]
    return [(name, number + 1, left[0][2]), *left[1:]]


def _pass_on(stream: Iterable[str], lines: "queue.Queue[str | None]") -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def main() -> None:
    """Runs the fuzzer from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="targets; default: all")
    parser.add_argument("--count", type=int, default=300, help="damaged files of each target")
    parser.add_argument("--first", type=int, default=0, help="number of the first file, to repeat a single one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--folder", type=Path, default=Path("fuzzing"), help="working folder; created if missing"
    )
    args = parser.parse_args()
    sys.path[:0] = map(str, (HERE, *HERE.parents[:2]))
    from targets import build, targets

    workshop = args.folder.absolute() / "workshop"
    if not workshop.is_dir():
        build(workshop)
    names = args.names or list(targets())
    failures = fuzz(workshop, names, args.count, args.seed, args.first)
    for failure in failures:
        print(f"{failure.target} {failure.number}: {failure.what.strip()}\n", flush=True)
    print(f"{len(names)} targets, {args.count} files of each, {len(failures)} failures")
    raise SystemExit(1 if failures else 0)


if __name__ == "__main__":
    main()

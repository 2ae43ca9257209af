"""The check that two processes can train the decoder with `DistributedDataParallel` as it comes."""

import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import torch

from segbench.commands.check_decoder.ddp_worker import PROCESSES, STEPS
from segbench.commands.check_decoder.decoder_under_test import Fault, Skip, Subject, format_error
from segbench.utils.files import scratch

# Two interpreters have to import torch, on cores that may be busy.
PATIENCE_S = 240


def ddp(subject: Subject) -> None:
    """Checks that two processes take two steps and hold the same weights after them."""
    try:
        recipe = pickle.dumps((subject.factory, subject.bed.info, subject.seed))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise Skip(f"another process cannot import the decoder: {format_error(error)}") from error
    with scratch() as folder:
        (folder / "recipe.pkl").write_bytes(recipe)
        torch.save(subject.bed.features(batch=2 * PROCESSES), folder / "features.pt")
        _run(folder)
        complaints = [file.read_text() for file in sorted(folder.glob("fault-*.txt"))]
        if complaints:
            raise Fault(complaints[0])
        one, other = (torch.load(folder / f"weights-{rank}.pt") for rank in range(PROCESSES))
    apart = [name for name in one if not torch.equal(one[name], other[name])]
    if apart:
        raise Fault(f"after {STEPS} steps two processes differ in {apart[0]}; make it a parameter or a buffer")


def _run(folder: Path) -> None:
    """Starts all processes and waits for them; whatever is left at the end is killed."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "segbench.commands.check_decoder.ddp_worker", str(folder)]
    errors = folder / "stderr.txt"
    with errors.open("w") as stderr:
        processes = [
            subprocess.Popen([*command, str(rank)], env=environment, stdout=stderr, stderr=stderr)
            for rank in range(PROCESSES)
        ]
        try:
            deadline = time.monotonic() + PATIENCE_S
            while any(process.poll() is None for process in processes):
                if any(process.poll() for process in processes):  # the others would wait for it forever
                    break
                if time.monotonic() > deadline:
                    raise Fault(
                        f"two processes did not finish {STEPS} steps in {PATIENCE_S} s; "
                        "let no process take a branch or a collective of its own"
                    )
                time.sleep(0.05)
        finally:
            for process in processes:
                process.kill()
                process.wait()
    if any(process.returncode for process in processes) and not list(folder.glob("fault-*.txt")):
        raise Fault(f"a process ended with {errors.read_text().strip().splitlines()[-1:]}")

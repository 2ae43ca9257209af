"""Real processes for tests, with the environment of `torchrun`, forked from one that has imported torch."""

import multiprocessing
import os
import socket
import sys
import time
from pathlib import Path

import fork_server

from segbench.__main__ import main

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["segbench.training.lightning_cli", "segbench.data.synthetic", "segbench.tasks.semantic"]
)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Processes:
    """`segbench ARGS` in each of `count` processes, whose output goes to files `out-RANK`."""

    def __init__(self, count, args, folder, **environment):
        self.folder = Path(folder)
        fork_server.start()
        shared = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
            "WORLD_SIZE": str(count),
            "TORCHELASTIC_RUN_ID": "test",
            "OMP_NUM_THREADS": "1",
            "SEGBENCH_CACHE": os.environ["SEGBENCH_CACHE"],
            **environment,
        }
        self.all = [
            _CONTEXT.Process(
                target=_work,
                args=(
                    args,
                    str(self.folder),
                    f"out-{rank}",
                    sys.path,
                    {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                ),
            )
            for rank in range(count)
        ]
        for process in self.all:
            process.start()

    def output(self, rank=0):
        path = self.folder / f"out-{rank}"
        return path.read_text() if path.is_file() else ""

    def wait(self, seconds=240):
        """Waits for all and returns their exit statuses; kills those that exceed the time limit."""
        deadline = time.monotonic() + seconds
        try:
            for process in self.all:
                process.join(max(0.0, deadline - time.monotonic()))
            return [process.exitcode for process in self.all]  # None if it hangs
        finally:
            for process in self.all:
                process.kill()
                process.join()

    def wait_for(self, path, seconds=240):
        """Waits until a file matches the pattern."""
        deadline = time.monotonic() + seconds
        while not (found := sorted(self.folder.glob(path))):
            assert any(process.is_alive() for process in self.all), self.output()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return found[0]


def _work(args, folder, out, path, environment):
    os.chdir(folder)
    os.environ.update(environment)
    sys.path[:] = path
    with Path(out).open("a") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    main(args)
    sys.stdout.flush()
    sys.stderr.flush()

"""Runs `python -m segbench.commands.sweep.child_process VERB …` as a process that ends with its parent.

A sweep that is killed must not leave trials behind: a continued sweep would write into the same run folders.
The starter holds the other end of this process's standard input, which closes however the starter ends.
"""

import os
import runpy
import threading

from segbench.utils.posix import kill_group


def _die_with_starter() -> None:
    while os.read(0, 1):  # nothing is ever written; b"" is the end
        pass
    kill_group()  # with loader workers, and the processes of other devices


if __name__ == "__main__":
    threading.Thread(target=_die_with_starter, daemon=True).start()
    runpy.run_module("segbench", run_name="__main__", alter_sys=True)

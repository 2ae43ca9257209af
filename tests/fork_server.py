"""The process from which tests fork others, so that they need not import torch again."""

import os
import sys
from multiprocessing import forkserver


def start() -> None:
    """Starts the fork server once, with the module search path of this process."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(entry for entry in sys.path if entry)
    forkserver.ensure_running()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before

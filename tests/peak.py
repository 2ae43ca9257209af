"""Memory of the current process, for tests that start one."""

import re
import resource
import sys
from contextlib import suppress
from pathlib import Path


def peak() -> int:
    """Returns the peak memory in bytes; on Linux `ru_maxrss` starts with the peak of the parent process."""
    unit = 1 if sys.platform == "darwin" else 1024
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def resident() -> int:
    """Returns the memory in bytes and resets the peak; 0 if the system does not report it."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(name: str) -> int:
    status = Path("/proc/self/status")
    return int(re.search(rf"{name}:\s+(\d+) kB", status.read_text())[1]) * 1024 if status.is_file() else 0

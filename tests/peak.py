"""Memory of the program that asks, for tests that start one."""

import re
import resource
import sys
from contextlib import suppress
from pathlib import Path


def peak() -> int:
    """Returns the most bytes that it had; on Linux `ru_maxrss` begins with the peak of its starter."""
    unit = 1 if sys.platform == "darwin" else 1024
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def resident() -> int:
    """Returns the bytes that it has now, and resets the peak; 0 where the system does not say."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(name: str) -> int:
    status = Path("/proc/self/status")
    return int(re.search(rf"{name}:\s+(\d+) kB", status.read_text())[1]) * 1024 if status.is_file() else 0

"""In which circumstances figures were measured: without them no figure can be compared with another."""

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from segbench.commands.bench.section import Clock
from segbench.utils.environment import commit, processor

PACKAGES = ("segbench", "timm", "torchmetrics", "triton")
# What changes the speed of the same code, wherever it is set.
VARIABLES = ("MALLOC_", "OMP_", "MKL_", "KMP_", "GOMP_", "SEGBENCH_KERNELS", "PYTORCH_", "CUDA_", "LD_PRELOAD")
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")

# Ends by itself when its parent is gone.
_SPIN = """
import os, signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
while os.getppid() == {parent}:
    for _ in range(1000000):
        pass
"""


def circumstances(clock: Clock, busy: int = 0) -> dict[str, Any]:
    """Collects what figures depend on.

    Args:
        clock: How they are measured.
        busy: Processes that spin beside, see `oversubscribed`.

    Returns:
        Plain values by name.
    """
    found = {
        "device": f"{torch.cuda.get_device_name(clock.device)}, {_gpu_memory(clock.device)}"
        if clock.device.type == "cuda"
        else "CPU",
        "processor": f"{processor()}, {_cores()} cores, {torch.backends.cpu.get_cpu_capability()}, "
        f"{platform.system()} {platform.machine()}",
        "caches": caches() or "unknown",
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, **_versions()},
        "commit": commit(),
        "environment": {name: value for name, value in sorted(os.environ.items()) if name.startswith(VARIABLES)}
        or "nothing set",
        "busy processes beside": busy,
        "load at start": f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown",
        "rounds": f"{clock.repeats} after {clock.warm_up} of warm-up, all rows of a case in turn; medians, and "
        "for ratios medians of each round's ratio to the first row of the case",
    }
    if clock.device.type == "cuda":
        found["CUDA"] = str(torch.version.cuda)
    return found


def caches() -> dict[str, str]:
    """Reads the sizes of the first core's data caches.

    Returns:
        Sizes such as `512K` by level, `L1` to `L3`; empty where the system does not tell.
    """
    sizes = {}
    for folder in sorted(CACHES.glob("index*")):
        kind, level, size = ((folder / name).read_text().strip() for name in ("type", "level", "size"))
        if kind != "Instruction":
            sizes[f"L{level}"] = size
    return sizes


@contextmanager
def oversubscribed(processes: int) -> Iterator[None]:
    """Keeps cores busy with something else.

    Args:
        processes: How many processes spin until the end; 0 for none.

    Yields:
        Nothing, while they spin.
    """
    with ExitStack() as stack:
        for _ in range(processes):
            spinning = stack.enter_context(
                subprocess.Popen([sys.executable, "-c", _SPIN.format(parent=os.getpid())])
            )
            stack.callback(spinning.kill)
        yield


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _gpu_memory(device: torch.device) -> str:
    return f"{torch.cuda.get_device_properties(device).total_memory / 2**30:.0f} GiB"


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found

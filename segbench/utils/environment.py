"""The environment of a computation: commit of the code, processor, device."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any, Literal, TypeAlias

Device: TypeAlias = Literal["auto", "cpu", "cuda", "mps"]


def commit() -> str:
    """Names the commit of the code that runs.

    Returns:
        The hash, with `-dirty` behind it where files differ from it; `unknown` outside a checkout.
    """
    folder = str(Path(__file__).parents[1])
    git = ["git", "-C", folder]
    try:
        # Not the commit of whatever repository an installed package happens to lie in.
        subprocess.run([*git, "ls-files", "--error-unmatch", "__init__.py"], check=True, capture_output=True)
        describe = [*git, "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
        return subprocess.run(describe, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def processor() -> str:
    """Names the CPU.

    Returns:
        The model where Linux tells it, else the architecture.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def choose_device(wanted: Device) -> str:
    """Resolves "auto", which takes a GPU where there is one.

    Args:
        wanted: What the user said.

    Returns:
        A name that torch knows.

    Raises:
        ValueError: If the device does not exist here.
    """
    import torch  # takes seconds, which `--help` must not

    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    place = next(name for name in ("cuda", "mps", "cpu") if there[name]) if wanted == "auto" else wanted
    if not there[place]:
        raise ValueError(
            f"device: {place} is not available; choose {' or '.join(n for n in there if there[n])}"
        )
    return place


def check_processes(devices: Any, accelerator: Any) -> None:
    """Refuses to start more processes on the CPU than it has cores: they would only wait for each other.

    Args:
        devices: As Lightning takes them; on the CPU a number of processes.
        accelerator: As Lightning takes it.

    Raises:
        ValueError: If there are more.
    """
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and choose_device("auto") == "cpu")
    started = {"LOCAL_RANK", "SLURM_PROCID"} & os.environ.keys()  # by torchrun, or SLURM
    if not on_cpu or started or not str(devices).isdecimal():
        return
    affinity = getattr(os, "sched_getaffinity", None)  # respects the share a cluster grants; not on macOS
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    if int(devices) > cores:
        raise ValueError(
            f"trainer.devices: {devices} processes on {cores} CPU cores would only wait for each other; give"
            f" --trainer.devices {cores} or less"
        )

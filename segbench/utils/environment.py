"""The environment of a computation: commit of the code, processor, device."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any, Literal, TypeAlias

Device: TypeAlias = Literal["auto", "cpu", "cuda", "mps"]


def commit() -> str:
    """Returns the commit of the running code.

    Returns:
        The hash, followed by `-dirty` if files differ from it; `unknown` outside a checkout.
    """
    folder = str(Path(__file__).parents[1])
    git = ["git", "-C", folder]
    try:
        # Not the commit of another repository in which the package happens to be installed.
        subprocess.run([*git, "ls-files", "--error-unmatch", "__init__.py"], check=True, capture_output=True)
        describe = [*git, "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
        return subprocess.run(describe, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def processor() -> str:
    """Returns the name of the CPU.

    Returns:
        The model on Linux, otherwise the architecture.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def choose_device(device: Device) -> str:
    """Resolves the device option; "auto" prefers a GPU.

    Args:
        device: Value of the option.

    Returns:
        The name of a torch device.

    Raises:
        ValueError: If this machine has no such device.
    """
    import torch  # takes seconds, too slow for `--help`

    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if available[name])
    if not available[device]:
        names = " or ".join(name for name in available if available[name])
        raise ValueError(f"device: {device} is not available; choose {names}")
    return device


def check_processes(devices: Any, accelerator: Any) -> None:
    """Refuses more CPU processes than cores, which would only wait for each other.

    Args:
        devices: Value of `trainer.devices`; on the CPU the number of processes.
        accelerator: Value of `trainer.accelerator`.

    Raises:
        ValueError: If there are more processes than cores.
    """
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and choose_device("auto") == "cpu")
    launched = {"LOCAL_RANK", "SLURM_PROCID"} & os.environ.keys()  # by torchrun or SLURM
    if not on_cpu or launched or not str(devices).isdecimal():
        return
    affinity = getattr(os, "sched_getaffinity", None)  # respects the cores a cluster grants; not on macOS
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    if int(devices) > cores:
        raise ValueError(
            f"trainer.devices: {devices} processes on {cores} CPU cores would only wait for each other; give"
            f" --trainer.devices {cores} or less"
        )

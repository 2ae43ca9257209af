"""Which GPUs are free, and who gets which."""

import os
import subprocess
from collections.abc import Sequence

# A GPU of which so little is taken has no process on it but a desktop's.
_FREE_SHARE = 0.05


def free_gpus() -> list[str] | None:
    """Asks nvidia-smi for GPUs that nobody computes on.

    Returns:
        Their numbers, of those in CUDA_VISIBLE_DEVICES where that is set; None where there is no GPU at all.
    """
    query = ["nvidia-smi", "--query-gpu=index,uuid,memory.used,memory.total", "--format=csv,noheader,nounits"]
    try:
        printed = subprocess.run(query, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    wanted = None if visible is None else [name.strip() for name in visible.split(",")]
    return parse_gpus(printed, wanted) if printed.strip() and wanted not in ([""], ["-1"]) else None


def parse_gpus(printed: str, visible: Sequence[str] | None) -> list[str]:
    """Reads what nvidia-smi prints.

    Args:
        printed: Lines of number, UUID, memory in use and in all.
        visible: Numbers or UUIDs that may be used; None for all.

    Returns:
        Numbers or UUIDs of those that are free.
    """
    free = []
    for line in printed.splitlines():
        index, uuid, used, total = (cell.strip() for cell in line.split(","))
        name = next((name for name in (index, uuid) if visible is None or name in visible), None)
        try:
            idle = float(used) <= _FREE_SHARE * float(total)
        except ValueError:  # [N/A] where a GPU is shared out
            idle = True
        if name is not None and idle:
            free.append(name)
    return free


def deal(gpus: Sequence[str] | None, workers: int | None) -> list[dict[str, str]]:
    """Shares GPUs and processors out.

    Args:
        gpus: Free ones; None where there are none at all.
        workers: How many processes; None for one on each GPU, or one without.

    Returns:
        Environment variables for each process. With more GPUs than processes each gets several; with fewer they
        share.

    Raises:
        ValueError: If there are GPUs, others compute on all of them, and no number is given.
    """
    if workers is None and gpus is not None and not gpus:
        raise ValueError("no GPU is free; wait, or run trials beside what others compute by --workers N")
    gpus = gpus or []
    number = workers or len(gpus) or 1
    shares: list[dict[str, str]] = []
    for worker in range(number):
        own = list(gpus[worker::number]) or [gpus[worker % len(gpus)]] if gpus else []
        shares.append({"CUDA_VISIBLE_DEVICES": ",".join(own)} if own else {})
        if number > 1 and "OMP_NUM_THREADS" not in os.environ:
            # Each would start as many threads as there are processors, and all wait for each other.
            shares[-1]["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // number))
    return shares

"""`segbench bench`: measures time and memory on this machine."""

import os
from pathlib import Path
from typing import Literal

from segbench.provenance import commit, processor

POSITIONAL = {"what": {"choices": ["kernels"], "help": "kernels: the loss kernel beside its plain reference."}}

ENVIRONMENT = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "OMP_WAIT_POLICY")


def bench(what: Literal["kernels"], repeats: int = 5, out: Path | None = None) -> None:
    """Measures time, memory and accuracy and prints a Markdown table.

    On the CPU glibc hands large blocks back to the system after each use, which slows down whatever allocates
    them. For the fairest comparison let it keep them: put MALLOC_MMAP_THRESHOLD_=8589934592
    MALLOC_TRIM_THRESHOLD_=17179869184 in front of the command. Where other work shares the cores, add
    OMP_WAIT_POLICY=passive: threads that wait by spinning make many small operations many times slower.

    Args:
        what: "kernels": the loss kernel that never holds upsampled logits against the one that does.
        repeats: Rounds of timing, at least 1; each row shows the median.
        out: Markdown file to write the table to as well; must not exist yet.

    Raises:
        ValueError: If `repeats` is below 1, `what` is unknown, or `out` exists.
    """
    if what != "kernels":
        raise ValueError(f"what is {what!r}; choose kernels")
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}; give at least 1")
    if out is not None and out.exists():
        raise ValueError(f"{out} exists; name another file for --out, or remove it")

    import torch

    from segbench.benchmarks.kernels import CASES, bench_loss, table

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = [row for case in CASES for row in bench_loss(case, repeats, device)]
    text = f"{_circumstances(device.type, repeats)}\n\n{table(rows)}\n"
    print(text, end="")
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text)


def _circumstances(device: str, repeats: int) -> str:
    """Says in which circumstances the figures were measured, as a Markdown list."""
    import platform

    import torch

    environment = ", ".join(f"{name}={os.environ.get(name, '(not set)')}" for name in ENVIRONMENT)
    lines = {
        "machine": f"{torch.cuda.get_device_name() if device == 'cuda' else processor()}, {platform.system()}",
        "torch": f"{torch.__version__}, {torch.get_num_threads()} threads",
        "commit": commit(),
        "environment": environment,
        "times": f"median of {repeats} rounds, all rows of a case in turn; ratios are to plain",
    }
    return "\n".join(f"- {name}: {value}" for name, value in lines.items())

"""`.pt2` files of torch.export: https://docs.pytorch.org/docs/stable/export.html."""

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from segbench.commands.export.graph import quiet
from segbench.commands.export.parity import Run

FACTS = "segbench.json"  # among the archive's extra files


def write_pt2(path: Path, program: ExportedProgram, facts: dict[str, Any]) -> None:
    """Writes a graph.

    Args:
        path: Of the new file.
        program: From `segbench.commands.export.graph.trace`.
        facts: Become an extra file of the archive.

    Raises:
        OSError: If it could not be written whole.
    """
    program.example_inputs = None  # megabytes of zeros
    archive = BytesIO()  # torch's own writer ends the process where the disk is full
    with quiet():
        torch.export.save(program, archive, extra_files={FACTS: json.dumps(facts)})
    path.write_bytes(archive.getbuffer())


def run_pt2(path: Path) -> Run:
    """Opens a file.

    Args:
        path: Of the file.

    Returns:
        What runs it.
    """
    with quiet():
        module = torch.export.load(path).module()

    def run(image: Tensor) -> list[Tensor]:
        return list(module(image))

    return run

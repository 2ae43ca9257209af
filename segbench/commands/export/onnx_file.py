"""ONNX files: `torch.onnx.export(dynamo=True)`, run by ONNX Runtime.

Format: https://onnx.ai. Facts of the model are JSON in the file's metadata properties.
"""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from segbench.commands.export.graph import Form, quiet
from segbench.commands.export.parity import Run

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
OPSET = 18  # the exporter's own: what it writes needs no conversion
LARGEST = 2**31 - 2**20  # protobuf ends at 2 GiB, and the graph itself takes some


def check_packages() -> None:
    """Refuses to begin without the optional packages.

    Raises:
        ValueError: If one is missing.
    """
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise ValueError(f"ONNX needs {', '.join(missing)}: pip install 'segbench[onnx]'")


def write_onnx(
    path: Path, program: ExportedProgram, facts: dict[str, Any], form: Form, outputs: list[str], opset: int
) -> None:
    """Translates a graph and writes it.

    Args:
        path: Of the new file.
        program: From `segbench.commands.export.graph.trace`.
        facts: Become metadata properties.
        form: Of the graph.
        outputs: Names of the outputs.
        opset: Version of ONNX's operators.

    Raises:
        ValueError: If the weights do not fit into one file.
    """
    size = sum(value.nbytes for value in program.state_dict.values())
    if size > LARGEST:
        raise ValueError(
            f"weights of {size / 2**30:.1f} GiB do not fit into an ONNX file (2 GiB); take --format pt2"
        )
    with quiet(), torch.no_grad():
        translated: Any = torch.onnx.export(
            program, dynamo=True, opset_version=opset, verbose=False, external_data=False
        )
    graph = translated.model.graph
    graph.inputs[0].name = "image"
    for value, name in zip(graph.outputs, outputs, strict=True):
        value.name = name
    translated.model.metadata_props.update({key: json.dumps(fact) for key, fact in facts.items()})
    _name_sides(graph.inputs[0], form)
    with quiet():
        translated.save(path)


def run_onnx(path: Path) -> Run:
    """Opens a file.

    Args:
        path: Of the file.

    Returns:
        What runs it on the CPU.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # it raises what it logs
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(image: Tensor) -> list[Tensor]:
        return [torch.from_numpy(value) for value in session.run(None, {"image": image.numpy()})]

    return run


def _name_sides(image: Any, form: Form) -> None:
    """Calls what varies by readable names instead of the tracer's."""
    import onnx_ir

    names = {"size": ("batch", 3, "height", "width"), "batch": ("batch", 3, *image.shape[2:])}
    if form.free in names:
        image.shape = onnx_ir.Shape(names[form.free])

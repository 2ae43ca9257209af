"""The checks that trace the decoder: `torch.compile` in one graph, and ONNX through `torch.export`."""

import copy
import io
import logging
import warnings
from contextlib import redirect_stderr, redirect_stdout
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from segbench.commands.check_decoder.decoder_under_test import (
    NUM_CLASSES,
    Fault,
    Skip,
    Subject,
    format_error,
    objective,
    outputs,
    slack,
)
from segbench.decoders.base import Decoder
from segbench.decoders.linear import LinearDecoder
from segbench.types import FeatureInfo, Features, Prediction

ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
OTHER_SIZE = (96, 160)
# Of the largest: rounding stays far below, a path that is lost or doubled far above.
WRONG_GRADIENT = 0.05


def compiles(subject: Subject) -> None:
    """Checks that one graph gives eager's outputs and gradients, and keeps the names in the state dict."""
    eager = subject.build().eval()
    compiled = copy.deepcopy(eager)
    keys = list(compiled.state_dict())
    features = subject.bed.features()
    torch._dynamo.reset()
    try:
        compiled.compile(fullgraph=True, backend=subject.backend)
        prediction = compiled(features)
        torch.autograd.backward(objective(outputs(prediction)))
    except Exception as error:
        raise Fault(
            f"no single graph: {_reason(error)}; use tensors throughout: no .item(), print or branch on values"
        ) from error
    finally:
        torch._dynamo.reset()
    expected = eager(features)
    torch.autograd.backward(objective(outputs(expected)))
    _compare(outputs(expected), outputs(prediction), slack(eager, features), "compiled,")
    for (name, parameter), other in zip(eager.named_parameters(), compiled.parameters(), strict=True):
        if (parameter.grad is None) != (other.grad is None):
            raise Fault(f"{name} has a gradient either eager or compiled; let nothing depend on tracing")
        if parameter.grad is None or other.grad is None or not parameter.grad.isfinite().all():
            continue  # the check of bf16 looks for nan
        off, scale = (parameter.grad - other.grad).abs().max(), parameter.grad.abs().max()
        if not off <= WRONG_GRADIENT * scale:  # nan is off
            raise Fault(f"compiled, the gradient of {name} is off by {off:.1e}; let nothing depend on tracing")
    if list(compiled.state_dict()) != keys:
        raise Fault("compiling renames the state dict; keep plain modules as attributes")


class Traceable(nn.Module):
    """A decoder between plain tensors, as ONNX knows no tuples with names."""

    def __init__(self, decoder: Decoder) -> None:
        """Wraps a decoder."""
        super().__init__()
        self.decoder = decoder

    def forward(self, image: Tensor, *maps: Tensor) -> tuple[Tensor, ...]:
        """Predicts.

        Args:
            image: Of the features.
            maps: Likewise.

        Returns:
            The outputs that are not None.
        """
        prediction: Prediction = self.decoder(Features(image, maps))
        return tuple(value for value in prediction if value is not None)


def onnx(subject: Subject) -> str:
    """Checks that the ONNX graph gives eager's outputs, at other sizes too where it takes them."""
    missing = [name for name in ONNX_PACKAGES if find_spec(name) is None]
    if missing:
        raise Skip(f"without {', '.join(missing)}: pip install 'segbench[onnx]'")
    decoder = subject.build().eval()
    # Traced away from img_size, where decoders may take a short cut that holds there only.
    traced, here = subject.bed.features(OTHER_SIZE), subject.bed.features()
    try:
        graph = _export(decoder, traced, free_sizes=True)
        given = [(features, _run_onnx(graph, features)) for features in (traced, here)]
        remark = "sizes free"
    except Exception as error:  # what exporter and runtime raise has no common base
        remark = f"at one size only: {_reason(error)}"
        try:
            given = [(here, _run_onnx(_export(decoder, here, free_sizes=False), here))]
        except Exception as fixed:
            _check_exporter(here)
            raise Fault(f"no ONNX graph: {_reason(fixed)}; use operations that torch.export knows") from fixed
    for features, tensors in given:
        with torch.no_grad():
            expected = outputs(decoder(features))
        height, width = features.image.shape[-2:]
        found = dict(zip(expected, tensors, strict=True))
        _compare(expected, found, slack(decoder, features), f"ONNX at {height}×{width},")
    return remark


def _export(decoder: Decoder, features: Features, free_sizes: bool) -> bytes:
    """Traces batch size, height and width as variables, or all as constants."""
    free = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC} if free_sizes else None
    tensors = (features.image, *features.maps)
    file, quiet = io.BytesIO(), io.StringIO()
    # The exporter warns of its own future, prints what it does, and logs what it tries before it raises.
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(quiet), redirect_stderr(quiet), torch.no_grad():
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                Traceable(decoder).eval(),
                tensors,
                dynamo=True,
                dynamic_shapes=(free, (free,) * len(features.maps)) if free else None,
                verbose=False,
            )
            program.save(file)
    finally:
        logging.disable(logging.NOTSET)
    return file.getvalue()


def _check_exporter(features: Features) -> None:
    """Tells packages that do not fit each other from a decoder that cannot be exported."""
    info = FeatureInfo(tuple(level.shape[1] for level in features.maps), (), (0, 0))
    try:
        _export(LinearDecoder(info, NUM_CLASSES).eval(), features, free_sizes=False)
    except Exception as error:
        raise Skip(
            f"not even a linear layer is exported: {format_error(error)}; "
            "pip install --upgrade 'segbench[onnx]'"
        ) from error


def _run_onnx(graph: bytes, features: Features) -> list[Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # it raises what it logs
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    # What the decoder does not read is not an input of the graph any more, or one that nothing depends on.
    names = [entry.name for entry in session.get_inputs()]
    tensors = dict(zip(_input_names(features), (features.image, *features.maps), strict=True))
    return [torch.from_numpy(value) for value in session.run(None, {n: tensors[n].numpy() for n in names})]


def _input_names(features: Features) -> list[str]:
    return ["image", *(f"maps_{index}" for index in range(len(features.maps)))]


def _compare(expected: dict[str, Tensor], given: dict[str, Tensor], slack: float, what: str) -> None:
    for name, value in expected.items():
        if given[name].shape != value.shape:
            raise Fault(f"{what} {name} are of another shape; let no shape depend on values")
        difference = (given[name] - value).abs().max().item()
        if not difference <= slack:  # nan differs
            raise Fault(f"{what} {name} differ from eager by {difference:.1e}; let nothing depend on tracing")


def _reason(error: BaseException) -> str:
    """Reduces what a tracer raises to the reason, and the line of the decoder where it arose."""
    if isinstance(error, torch.onnx.errors.OnnxExporterError) and error.__cause__ is not None:
        error = error.__cause__  # the exporter wraps what it meets in advice
    code = [line.strip() for line in str(error).splitlines() if line.strip().startswith('File "')]
    where = f" ({code[-1].removeprefix('File ').replace(chr(34), '')})" if code else ""
    return format_error(error) + where

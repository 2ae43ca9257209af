"""All checks in order, and the runner that gives each result as it comes."""

import time
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import torch

from segbench.commands.check_decoder.checks import CHECKS as LIGHT
from segbench.commands.check_decoder.ddp import ddp
from segbench.commands.check_decoder.decoder_under_test import Check, Fault, Skip, Subject, format_error
from segbench.commands.check_decoder.graphs import compiles, onnx
from segbench.commands.check_decoder.overfit import overfits

CHECKS: dict[str, Check] = {
    **LIGHT,
    "compile": compiles,
    "onnx": onnx,
    "ddp": ddp,
    "overfit": overfits,
}


class Result(NamedTuple):
    """The outcome of one check.

    Attributes:
        check: Its name.
        outcome: A check that cannot run is skipped, never passed.
        seconds: How long it took.
        message: The fault and its remedy, the reason of a skip, or a remark.
    """

    check: str
    outcome: Literal["passed", "failed", "skipped"]
    seconds: float
    message: str


def choose(only: Sequence[str] | None = None, skip: Sequence[str] | None = None) -> list[str]:
    """Selects checks by name.

    Args:
        only: Those to run; all by default.
        skip: Those to leave out.

    Returns:
        Names in the order of the suite.

    Raises:
        ValueError: If the check does not exist, or none is left.
    """
    unknown = sorted({*(only or ()), *(skip or ())} - CHECKS.keys())
    if unknown:
        raise ValueError(f"unknown check {', '.join(unknown)}; choose among {', '.join(CHECKS)}")
    chosen = [name for name in CHECKS if (only is None or name in only) and name not in (skip or ())]
    if not chosen:
        raise ValueError("--only and --skip leave no check; drop one of them")
    return chosen


def examine(subject: Subject, names: Sequence[str]) -> Iterator[Result]:
    """Runs checks one after the other; the caller's random state stays as it is.

    Args:
        subject: The decoder.
        names: Of checks.

    Yields:
        Each result as it comes.
    """
    for name in names:
        begin = time.perf_counter()
        outcome, message = _outcome(CHECKS[name], subject)
        yield Result(name, outcome, time.perf_counter() - begin, message)


def _outcome(check: Check, subject: Subject) -> tuple[Literal["passed", "failed", "skipped"], str]:
    with torch.random.fork_rng(devices=[]):
        try:
            return "passed", check(subject) or ""
        except Skip as reason:
            return "skipped", str(reason)
        except Fault as fault:
            return "failed", str(fault)
        except Exception as error:  # the decoder is a stranger's: whatever it raises is a finding
            return "failed", f"{type(error).__name__}: {format_error(error)}"

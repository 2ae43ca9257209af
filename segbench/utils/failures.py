"""Failures of the machine rather than of the input or the code: memory, disks, lost processes.

Each kind has one line with the cause and the option that helps; `segbench.utils.errors` prints it.
"""

import errno
import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from segbench.utils.files import cache_folder

_LOADERS = (
    "lower --data.init_args.batch_size (and raise --trainer.accumulate_grad_batches by the same factor) or"
    " --data.init_args.num_workers; in validation lower --model.init_args.windows_per_batch"
)
_EVALUATION = (
    "lower --model.init_args.windows_per_batch, --data.init_args.eval_batch_size or"
    " --data.init_args.num_workers"
)
_MEMORY = {
    "fit": _LOADERS,
    "validate": _EVALUATION,
    "test": _EVALUATION,
    "predict": _EVALUATION,
    "segment": "lower --batch_size, give a --window, or leave out --probabilities",
    "export": "give a smaller --image_size",
    "bench": "lower --batch_size, or give a smaller --img_size",
    "tune-regions": "lower --workers or --data.init_args.num_workers",
    "doctor": "lower --num_workers",
    "sweep": "lower --workers",
    "synth": "give a smaller --size",
}
_DEVICE = _MEMORY | {"fit": f"{_LOADERS}; or give --trainer.precision bf16-mixed"}
_WORKERS = "lower --data.init_args.num_workers; 0 loads without worker processes"
_OUTPUT_OPTIONS = {
    "fit": "--runs_dir",
    "validate": "--runs_dir",
    "test": "--runs_dir",
    "predict": "--runs_dir",
    "sweep": "--runs_dir",
    "synth": "--root",
}


class _Kind(NamedTuple):
    """A kind of failure.

    Attributes:
        pattern: Found in "NAME: MESSAGE" of an exception.
        text: The cause.
        remedy: What helps, for all commands or by command; the entry "" is for all others.
    """

    pattern: re.Pattern[str]
    text: str
    remedy: str | Mapping[str, str]


_KINDS = (
    _Kind(
        re.compile(
            r"(CUDA|HIP|XPU|MPS backend) (error: )?out of memory|_STATUS_ALLOC_FAILED|^OutOfMemoryError"
        ),
        "the device is out of memory",
        _DEVICE | {"": "give --device cpu, or smaller inputs"},
    ),
    _Kind(
        re.compile(r"[Bb]us error|workers are out of shared memory|/dev/shm|</?torch_\d"),
        "a loader worker ran out of shared memory (/dev/shm)",
        f"{_WORKERS}; in a container raise it, as by docker run --shm-size 8g",
    ),
    _Kind(
        re.compile(r"Too many open files|received \d+ items of ancdata"),
        "too many files are open",
        f"{_WORKERS}; or raise the limit by `ulimit -n 65536`",
    ),
    _Kind(
        re.compile(r"can't start new thread|Resource temporarily unavailable"),
        "the system refuses to start another process or thread",
        f"{_WORKERS}; or raise the limit by `ulimit -u`",
    ),
    _Kind(
        re.compile(r"DataLoader worker .*(killed by signal|exited unexpectedly)"),
        "a loader worker was killed, most often because the machine is out of memory",
        f"{_WORKERS}; or lower --data.init_args.batch_size",
    ),
    _Kind(
        re.compile(
            r"^(\w*\.)*_?(Array)?MemoryError\b|DefaultCPUAllocator|[Cc]annot allocate memory|std::bad_alloc|"
            r"Insufficient memory|Failed to allocate \d+|not enough memory"
        ),
        "the machine is out of memory",
        _MEMORY | {"": "close other programs, or give smaller inputs"},
    ),
    _Kind(
        re.compile(r"Function '\w+' returned nan values in its \d+th output"),
        "a gradient is NaN, and trainer.detect_anomaly ends the training there",
        "the warning above shows the operation whose gradient it is",
    ),
    # gloo's, NCCL's, and those of the store through which processes find each other.
    _Kind(
        re.compile(
            r"^(\w*\.)*(Runtime|Dist\w*)Error.*(\bgloo\b|NCCL|TCPStore|Connection (closed|reset|refused)|"
            r"failed to recv|Broken pipe)",
            re.DOTALL,
        ),
        "another process of this run has ended or cannot be reached",
        "see its message above, or on its own machine. The run folder is intact: `segbench fit --resume RUN`"
        " resumes from its last checkpoint",
    ),
)
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def explain(error: BaseException, message: str, verb: str) -> str | None:
    """Returns the cause of a failure and its remedy.

    Args:
        error: The exception.
        message: Its message in one line, that of the worker process if it comes from one.
        verb: The command.

    Returns:
        One line; None for all other errors.
    """
    if isinstance(error, OSError) and error.errno in _FULL:
        return _full(error, verb)
    if not isinstance(error, (RuntimeError, MemoryError, OSError)) and type(error).__module__ != "cv2":
        return None
    if isinstance(error, MemoryError) and not re.match(r"\w*MemoryError|Unable to allocate|std::", message):
        return message  # raised by segbench, with the name of the file
    text = f"{type(error).__name__}: {message}"
    for kind in _KINDS:
        if kind.pattern.search(text):
            remedy = kind.remedy if isinstance(kind.remedy, str) else kind.remedy.get(verb) or kind.remedy[""]
            amount = re.search(r"(?:[Tt]ried to allocate|Unable to allocate) ([\d.]+ ?\w+)", message)
            return f"{kind.text}{f' ({amount[1]} requested)' if amount else ''}: {remedy}"
    return None


def _full(error: OSError, verb: str) -> str:
    path = str(error.filename or "")
    text = f"{error.strerror}: {path}" if path else str(error.strerror)
    if path and os.path.realpath(path).startswith(os.path.realpath(cache_folder()) + os.sep):
        return f"{text}; free some space, or set another cache folder in SEGBENCH_CACHE"
    option = _OUTPUT_OPTIONS.get(verb, "--out")
    return f"{text}; free some space, or choose another folder by {option}. Files completed before are intact"

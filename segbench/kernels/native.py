"""Kernels in C for the CPU, compiled by the machine's own compiler when first needed.

Nothing needs them: where there is no compiler, the kernels of torch do the same, more slowly. They are called
without the interpreter's lock, one thread of Python for each thread that torch may use, so that no second
pool of OpenMP threads competes with torch's, and busy cores cost no more than their share. A forked process
starts threads of its own here; torch's own OpenMP pool does not survive a fork, so that such a process must
not compute with several threads, which workers of a DataLoader do not.
"""

import ctypes
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segbench.utils.files import cache_folder, scratch
from segbench.utils.fingerprint import short_hash
from segbench.utils.lock import FolderLock
from segbench.utils.printable import escape_controls
from segbench.utils.private import why_insecure

_SOURCES = sorted(Path(__file__).parent.glob("*/*.c"))
# What vectorising sums needs of -ffast-math; infinities and nan keep their meaning.
_FLAGS = (
    *("-O3", "-std=c11", "-shared", "-fPIC"),
    *("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math", "-ffp-contract=fast"),
)
_TIMEOUT_S = 120
_ELSEWHERE = "name another place by SEGBENCH_CACHE"


@cache
def library() -> ctypes.CDLL:
    """Loads the compiled kernels, compiling them where that was not done yet on such a processor.

    Returns:
        The library. Its functions take pointers, see `pointer`.

    Raises:
        ValueError: If there is no C compiler, it fails, or its library has no place; says what it said.
    """
    wanted = shlex.split(os.environ.get("CC", "")) or ["cc"]  # more than one word as in CC="ccache gcc"
    compilers = [words for words in (wanted, ["gcc"], ["clang"]) if shutil.which(words[0])]
    if not compilers:
        raise ValueError("native kernels need a C compiler: install gcc or clang, or name one by CC")
    flags = (*_FLAGS, "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native")
    command = [*compilers[0], *flags]
    key = "\0".join([*command, _processor_features()]).encode()
    name = short_hash(key + b"".join(source.read_bytes() for source in _SOURCES))
    with _folder() as folder:
        path = _whole(folder, name) or _compile(command, folder, name)
        try:
            return ctypes.CDLL(str(path))
        except OSError as error:
            raise ValueError(f"the native kernels cannot be loaded, {error}; {_ELSEWHERE}") from None


@contextmanager
def _folder() -> Iterator[Path]:
    """Chooses where libraries are kept: a folder into which nobody else could have put one.

    Where the cache folder is none, the library is compiled for this process alone, and said so once.
    """
    folder = cache_folder() / "kernels"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"the native kernels cannot be written, {error}; {_ELSEWHERE}") from None
    reason = why_insecure(folder)
    if reason is None:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="segbench-") as own:  # a loaded library outlives its file
        if (still := why_insecure(Path(own))) is not None:
            raise ValueError(f"no folder is safe to load compiled kernels from: {still}; {_ELSEWHERE}")
        logging.getLogger(__name__).warning(
            "%s, so compiled kernels there might be anybody's: they are compiled for this process alone, which"
            " takes seconds each time; %s",
            escape_controls(reason),
            _ELSEWHERE,
        )
        yield Path(own)


@cache
def available() -> bool:
    """Returns whether `library` can be had; says why not, once, in the log."""
    try:
        library()
    except (ValueError, OSError) as error:
        logging.getLogger(__name__).warning("loss, scoring and attention go by torch, more slowly: %s", error)
        return False
    return True


def pointer(array: Tensor | NDArray[Any] | None) -> ctypes.c_void_p:
    """Hands an array to C.

    Args:
        array: On the CPU and contiguous; must outlive the call. None becomes a null pointer.

    Returns:
        Its first byte.

    Raises:
        ValueError: If C could not read it.
    """
    if array is None:
        return ctypes.c_void_p(None)
    if isinstance(array, np.ndarray):
        address, readable = array.ctypes.data, array.flags.c_contiguous
    else:
        address, readable = array.data_ptr(), array.device.type == "cpu" and array.is_contiguous()
    if not readable:
        raise ValueError("native kernels take contiguous arrays on the CPU")
    return ctypes.c_void_p(address)


def integer(value: int) -> ctypes.c_int64:
    """Hands C a whole number, for its `int64_t`."""
    return ctypes.c_int64(int(value))


def real(value: float) -> ctypes.c_double:
    """Hands C a number, for its `double`."""
    return ctypes.c_double(value)


def in_parallel(work: Callable[[int], Any], parts: int) -> list[Any]:
    """Calls a function that spends its time in C once for each part, on as many threads as torch has.

    Args:
        work: Called with 0 to `parts` − 1; what it computes must not depend on which part runs first.
        parts: How many.

    Returns:
        What the calls returned, in order.
    """
    threads = min(parts, torch.get_num_threads())
    if threads <= 1:
        return [work(part) for part in range(parts)]
    return list(_pool(os.getpid(), threads).map(work, range(parts)))


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:  # noqa: ARG001 (the key)
    """Keeps threads waiting; those of a parent do not live on in a forked process."""
    return ThreadPoolExecutor(threads, thread_name_prefix="segbench-kernel")


def _named(name: str, path: Path) -> str:
    """Names a library after its content as well: half a file, as a power failure leaves, would crash Python."""
    return f"{name}-{short_hash(path.read_bytes(), 16)}.so"


def _whole(folder: Path, name: str) -> Path | None:
    """Finds a library that is complete, and that nobody else could have written."""
    found = (path for path in folder.glob(f"{name}-*.so") if why_insecure(path) is None)
    return next((path for path in found if path.name == _named(name, path)), None)


def _compile(command: list[str], folder: Path, name: str) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FolderLock(folder, _ELSEWHERE)
        with ExitStack() as stack:
            stack.callback(lock.release)
            lock.attempt(_TIMEOUT_S, quiet=True)  # without it the work is done twice, and that is all
            own = stack.enter_context(scratch(folder))
            if compiled := _whole(folder, name):  # by another process of the same run, meanwhile
                return compiled
            draft = own / "draft.so"
            _call([*command, *map(str, _SOURCES), "-o", str(draft), "-lm"])
            draft.chmod(0o755)  # whatever the umask: a library that others may write is not loaded
            return draft.replace(folder / _named(name, draft))
    except OSError as error:
        raise ValueError(f"the native kernels cannot be written, {error}; {_ELSEWHERE}") from None


def _call(compiler: list[str]) -> None:
    try:
        subprocess.run(compiler, check=True, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except subprocess.CalledProcessError as error:
        raise ValueError(f"{compiler[0]} does not compile the native kernels: {error.stderr[-500:]}") from None
    except OSError as error:
        raise ValueError(f"the compiler cannot be run, {error}; name another one by CC") from None
    except subprocess.TimeoutExpired:
        raise ValueError(f"{compiler[0]} took more than {_TIMEOUT_S} s for the native kernels") from None


def _processor_features() -> str:
    """Lists what the processor can do: a cluster's machines share a home, and not one kind of processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line for line in lines if line.startswith(("flags", "Features", "model name"))]
    return "\n".join(sorted(set(named))) or platform.processor()

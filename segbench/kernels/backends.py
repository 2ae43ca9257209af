"""Which of several ways to compute the same thing a kernel takes."""

import os
from collections.abc import Sequence

VARIABLE = "SEGBENCH_KERNELS"
NAMES = ("plain", "chunked", "native", "triton")


def preference() -> str:
    """Reads the environment variable SEGBENCH_KERNELS.

    Returns:
        One of `NAMES`, or "auto".

    Raises:
        ValueError: If the variable says anything else.
    """
    preferred = os.environ.get(VARIABLE) or "auto"
    if preferred not in ("auto", *NAMES):
        raise ValueError(f"{VARIABLE} is {preferred!r}; choose auto, {', '.join(NAMES)}")
    return preferred


def choose_backend(wanted: str, offered: Sequence[str]) -> str:
    """Resolves "auto".

    Args:
        wanted: An argument of the caller. "auto" takes what the environment variable SEGBENCH_KERNELS says,
            where that is offered here, since no kernel has all backends; for "plain" and "chunked", which run
            nothing compiled by us, the plainest that is.
        offered: What can compute the case at hand, the fastest first.

    Returns:
        One of `offered`.

    Raises:
        ValueError: If the wanted backend is not offered, or the variable names none.
    """
    if wanted != "auto":
        if wanted not in offered:
            raise ValueError(f"backend is {wanted!r}; here there are auto, {', '.join(offered)}")
        return wanted
    preferred = preference()
    if preferred in offered:
        return preferred
    return offered[-1] if preferred in ("plain", "chunked") else offered[0]

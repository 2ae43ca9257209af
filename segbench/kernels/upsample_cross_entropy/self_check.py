"""Compares the Triton kernel with the chunked backend before its first use on a device.

A compiler or driver that miscompiles the kernel would train silently with a wrong loss or gradient.
"""

import importlib
import logging
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from segbench.kernels.upsample_cross_entropy import chunked

Kernel = Callable[..., tuple[Tensor, Tensor, Tensor]]
_NUM_CLASSES, _GRID, _SIZE = 5, (4, 6), (17, 23)  # sizes that no block of the kernel divides
_IGNORE_INDEX = 255
_TOLERANCE = 1e-4  # relative to the largest value; float32 sums differ by 1e-6


@cache
def triton_agrees(device: torch.device) -> bool:
    """Whether the Triton kernel computes on a device what the chunked backend computes.

    The comparison takes milliseconds beside the compilation, and is made once for each process and device.

    Args:
        device: With its index.

    Returns:
        False where the kernel fails or differs, which is logged; the loss then takes another backend.
    """
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, _NUM_CLASSES, *_GRID, generator=generator).to(device)
    target = torch.randint(_NUM_CLASSES, (1, *_SIZE), generator=generator)
    target[:, :3] = _IGNORE_INDEX
    weight = torch.linspace(0.5, 1.5, _NUM_CLASSES).to(device)
    args = (logits, target.to(device), weight, None, _IGNORE_INDEX, 0.1, None, _SIZE, True, False)
    try:
        found = _triton_kernel()(*args)
        expected = chunked.loss_and_gradient(*args)
        names = ("loss", "weight", "gradient")
        wrong = [
            name
            for name, one, other in zip(names, found, expected, strict=True)
            if not (one - other).abs().max() <= _TOLERANCE * other.abs().max()  # NaN is wrong as well
        ]
        reason = f"its {' and '.join(wrong)} differ from those of the chunked backend" if wrong else ""
    except Exception as error:  # whatever compiler and driver may raise
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    if reason:
        logging.getLogger(__name__).warning(
            "the Triton loss is not used on %s, the slower chunked one is: %s; another release of triton or of "
            "the driver may help, and SEGBENCH_KERNELS=chunked avoids this check",
            device,
            reason,
        )
    return not reason


def _triton_kernel() -> Kernel:
    kernel: Kernel = importlib.import_module(
        "segbench.kernels.upsample_cross_entropy.triton_kernel"
    ).loss_and_gradient
    return kernel

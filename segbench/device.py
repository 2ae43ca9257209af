"""Where a command computes."""

from typing import Literal, TypeAlias

Device: TypeAlias = Literal["auto", "cpu", "cuda", "mps"]


def choose_device(wanted: Device) -> str:
    """Resolves "auto", which takes a GPU where there is one.

    Args:
        wanted: What the user said.

    Returns:
        A name that torch knows.

    Raises:
        ValueError: If there is no such device here.
    """
    import torch  # takes seconds, which `--help` must not

    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    place = next(name for name in ("cuda", "mps", "cpu") if there[name]) if wanted == "auto" else wanted
    if not there[place]:
        raise ValueError(
            f"device: there is no {place} here; choose {' or '.join(n for n in there if there[n])}"
        )
    return place

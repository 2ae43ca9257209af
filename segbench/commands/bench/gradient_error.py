"""How far gradients are from those in float64: one column for all kernels that have a backward pass."""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from segbench.commands.bench.section import Column, Row

ERROR = Column("gradient error", lambda row: row.get("gradient_error"), "{:.1e}".format)


def add_errors(
    rows: Sequence[Row], works: Mapping[str, Callable[[], Sequence[Tensor]] | str], exact: Sequence[Tensor]
) -> None:
    """Computes the gradients of every row that was measured once more, and compares them.

    Args:
        rows: Of `segbench.commands.bench.section.compare`; they receive the largest difference over the largest
            value, of several tensors the worst.
        works: What the rows measured, which returns gradients; a string says why it was not.
        exact: The same gradients in float64.
    """
    for row in rows:
        work = works[row["variant"]]
        if not isinstance(work, str) and "reason" not in row:
            pairs = zip(work(), exact, strict=True)
            row["gradient_error"] = max(
                ((one - other).abs().max() / other.abs().max()).item() for one, other in pairs
            )

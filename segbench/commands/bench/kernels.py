"""What `segbench bench kernels` measures: every kernel beside what it replaces."""

from segbench.commands.bench import argmax, attention, confusion, loss, mean_shift, regions
from segbench.commands.bench import window_merging as merging
from segbench.commands.bench.section import Section

KERNELS = (
    loss.section,
    argmax.section,
    merging.section,
    confusion.section,
    attention.section,
    mean_shift.section,
    regions.section,
)


def sections() -> list[Section]:
    """Lists the sections.

    Returns:
        One for each kernel, in the order of the table.
    """
    return [section() for section in KERNELS]

"""What `segbench bench kernels` measures: every kernel beside what it replaces."""

from segbench.benchmarks import argmax, attention, confusion, loss, mean_shift, merging, regions
from segbench.benchmarks.section import Section

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

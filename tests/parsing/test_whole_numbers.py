"""`limit_val_batches: 1` is one batch, never all of them.

Lightning writes int before float there; but typing caches `Optional[Union[int, float]]` by its members, so
that what Python shows has the order of whichever module asked first.
"""

from typing import Union

import pytest

from segbench.parsing.parser import ExplainedParser


class Limited:
    def __init__(
        self,
        either: Union[float, int] = 1.0,  # noqa: UP007
        perhaps: float | int | None = None,
        text: str | float | int = "",
        number: int | float | str | dict | None = None,
        swapped: float | str | int = 1.0,
        share: float = 1.0,
    ):
        pass


@pytest.mark.parametrize("name", ["either", "perhaps", "text", "number", "swapped"])
@pytest.mark.parametrize(("given", "value"), [("1", 1), ("1.0", 1.0), ("0.5", 0.5)])
def test_a_whole_number_stays_whole_where_both_are_taken(name, given, value):
    parser = ExplainedParser()
    parser.add_class_arguments(Limited, "x")
    read = parser.parse_args([f"--x.{name}={given}"])["x"][name]
    assert (read, type(read)) == (value if name != "text" else given, str if name == "text" else type(value))


def test_a_share_stays_a_share():
    parser = ExplainedParser()
    parser.add_class_arguments(Limited, "x")
    assert type(parser.parse_args(["--x.share=1"]).x.share) is float

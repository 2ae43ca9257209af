"""`limit_val_batches: 1` is one batch, not 100 % of them.

Lightning annotates int before float; but typing caches `Optional[Union[int, float]]` by its members, so that
the actual order is that of the module that created it first.
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
def test_integer_stays_an_integer_where_both_types_are_accepted(name, given, value):
    parser = ExplainedParser()
    parser.add_class_arguments(Limited, "x")
    read = parser.parse_args([f"--x.{name}={given}"])["x"][name]
    assert (read, type(read)) == (value if name != "text" else given, str if name == "text" else type(value))


def test_integer_for_a_float_option_becomes_a_float():
    parser = ExplainedParser()
    parser.add_class_arguments(Limited, "x")
    assert type(parser.parse_args(["--x.share=1"]).x.share) is float

import numpy as np

from segbench.functional.charts import bar_chart


def bars(picture, color):
    """Lengths of the bars of a colour, from above."""
    rows = (picture == color).all(axis=2).sum(axis=1)
    starts = np.flatnonzero((rows[1:] > 0) & (rows[:-1] == 0)) + 1
    return [int(rows[start]) for start in starts]


def test_bars_are_as_long_as_their_values():
    colors = [(200, 40, 40), (40, 40, 200)]
    labels = [["half", "whole"], ["none", "quarter"]]
    picture = bar_chart("shares", ["one", "another"], [[0.5, 1.0], [0.0, 0.25]], colors, labels)
    assert picture.shape[1:] == (900, 3)
    (half,), (whole,), (quarter,) = (
        bars(picture, color) for color in ((200, 40, 40), (150, 30, 30), (30, 30, 150))
    )
    assert abs(half / whole - 0.5) < 0.01
    assert abs(quarter / whole - 0.25) < 0.01


def test_nothing_to_show_is_a_title():
    assert bar_chart("shares", ["one"], [[]], [(9, 9, 9)], [[]]).shape[0] > 20
    assert bar_chart("sizes", [], [], [], []).shape[1] == 900

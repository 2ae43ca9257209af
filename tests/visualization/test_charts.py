import numpy as np

from segbench.visualization.charts import bar_chart, line_chart, scatter_plot


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


def centre(picture, color):
    return np.argwhere((picture == color).all(axis=2)).mean(axis=0)  # y, x


def test_points_lie_where_their_values_say():
    blue, red, green = ((31, 119, 180), (214, 39, 40), (44, 160, 44))
    picture = scatter_plot("cost", ("ms", "%"), ["a", "b", "c"], [(0, 10), (50, 20), (100, 40)])
    first, second, third = (centre(picture, color) for color in (blue, red, green))
    assert abs((second - first)[1] / (third - first)[1] - 1 / 2) < 0.01
    assert abs((second - first)[0] / (third - first)[0] - 1 / 3) < 0.01
    assert third[0] < second[0] < first[0]  # more is further up


def test_points_of_one_name_share_a_colour_and_one_point_is_enough():
    both = scatter_plot("cost", ("ms", "%"), ["a", "a"], [(1, 1), (2, 2)])
    assert not (both == (214, 39, 40)).all(axis=2).any()
    assert scatter_plot("cost", ("ms", "%"), ["a"], [(0, 0)], (300, 400)).shape == (300, 400, 3)


def test_a_line_runs_from_value_to_value_and_leaves_gaps_out():
    picture = line_chart("t", ("x", "y"), ["a", "b", "c"], {"one": [0.0, 10.0, 10.0], "two": [None, 5.0, None]})
    assert picture.shape == (480, 640, 3)
    first, second = (np.argwhere((picture == hue).all(-1)) for hue in ((31, 119, 180), (214, 39, 40)))
    plot = first[first[:, 1] < 500]
    rising = plot[np.argsort(plot[:, 1])]
    assert rising[0, 0] > rising[-1, 0] + 300  # from the foot to the head
    mark = second[second[:, 1] < 500]
    assert np.ptp(mark, axis=0).max() < 12  # a mark and no line
    assert abs(mark[:, 0].mean() - (rising[0, 0] + rising[-1, 0]) / 2) < 5

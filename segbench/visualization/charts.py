"""Bar charts, line charts and scatter plots without a plotting library. Pictures are RGB uint8."""

import itertools
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from segbench.visualization.pictures import Image

_FONT, _SCALE, _LINE = cv2.FONT_HERSHEY_SIMPLEX, 0.42, 18
_INK, _FRAME, _GRID = (40, 40, 40), (150, 150, 150), (230, 230, 230)
_HUES = ((31, 119, 180), (214, 39, 40), (44, 160, 44), (255, 127, 14), (148, 103, 189), (23, 190, 207))


def bar_chart(
    title: str,
    names: Sequence[str],
    values: Sequence[Sequence[float]],
    colors: Sequence[Sequence[int]],
    labels: Sequence[Sequence[str]],
    width: int = 900,
) -> Image:
    """Draws horizontal bars, one group for each name.

    Args:
        title: Above the bars.
        names: Left of them.
        values: One row for each name, one bar for each value; none below 0.
        colors: Of the bars of each name; the second and third bar of a group are darker.
        labels: Text behind each bar.
        width: Of the picture, in pixels.

    Returns:
        `(H, width, 3)`.
    """
    left = 16 + max((cv2.getTextSize(name, _FONT, _SCALE, 1)[0][0] for name in names), default=0)
    right = 16 + max(
        (cv2.getTextSize(text, _FONT, _SCALE, 1)[0][0] for row in labels for text in row), default=0
    )
    room = max(20, width - left - right)
    longest = max((value for row in values for value in row), default=0) or 1
    height = 2 * _LINE + sum(_LINE * len(row) + 6 for row in values)
    picture = np.full((height, width, 3), 255, np.uint8)
    cv2.putText(picture, title, (8, _LINE), _FONT, 0.5, _INK, 1, cv2.LINE_AA)
    y = int(1.5 * _LINE)
    for name, row, color, texts in zip(names, values, colors, labels, strict=True):
        cv2.putText(picture, name, (8, y + _LINE - 5), _FONT, _SCALE, _INK, 1, cv2.LINE_AA)
        for i, (value, text) in enumerate(zip(row, texts, strict=True)):
            end = left + round(room * value / longest)
            shade = tuple(int(channel * (1 - 0.25 * i)) for channel in color)
            cv2.rectangle(picture, (left, y + 3), (end, y + _LINE - 3), shade, -1)
            cv2.rectangle(picture, (left, y + 3), (end, y + _LINE - 3), _FRAME, 1)
            cv2.putText(picture, text, (end + 6, y + _LINE - 5), _FONT, _SCALE, _INK, 1, cv2.LINE_AA)
            y += _LINE
        y += 6
    return picture


def line_chart(
    title: str,
    axes: tuple[str, str],
    ticks: Sequence[str],
    lines: Mapping[str, Sequence[float | None]],
    size: tuple[int, int] = (480, 640),
) -> Image:
    """Draws lines over named places at equal distances.

    Args:
        title: Above the plot.
        axes: What lies on the horizontal and on the vertical axis.
        ticks: Names of the places.
        lines: Values by name, one for each place, None where there is none; at least one value in all.
        size: `(height, width)` of the picture, in pixels.

    Returns:
        `(height, width, 3)`.
    """
    height, width = size
    room = 40 + max((cv2.getTextSize(name, _FONT, _SCALE, 1)[0][0] for name in lines), default=0)
    left, right, top, bottom = 64, width - 24 - room, 3 * _LINE, height - 3 * _LINE
    picture = np.full((height, width, 3), 255, np.uint8)
    cv2.putText(picture, title, (8, _LINE), _FONT, 0.5, _INK, 1, cv2.LINE_AA)
    cv2.putText(picture, axes[1], (left, top - 6), _FONT, _SCALE, _INK, 1, cv2.LINE_AA)
    cv2.putText(picture, axes[0], (left, height - 8), _FONT, _SCALE, _INK, 1, cv2.LINE_AA)
    levels = _ticks([value for values in lines.values() for value in values if value is not None])

    def place(index: int, value: float) -> tuple[int, int]:
        across = (index + 0.5) / len(ticks)
        up = (value - levels[0]) / (levels[-1] - levels[0])
        return round(left + across * (right - left)), round(bottom - up * (bottom - top))

    for level in levels:
        y = place(0, level)[1]
        cv2.line(picture, (left, y), (right, y), _GRID, 1)
        cv2.putText(picture, f"{level:g}", (8, y + 5), _FONT, _SCALE, _INK, 1, cv2.LINE_AA)
    for index, tick in enumerate(ticks):
        start = place(index, levels[0])[0] - cv2.getTextSize(tick, _FONT, _SCALE, 1)[0][0] // 2
        cv2.putText(picture, tick, (start, bottom + _LINE), _FONT, _SCALE, _INK, 1, cv2.LINE_AA)
    for number, (name, values) in enumerate(lines.items()):
        hue = _HUES[number % len(_HUES)]
        points = [place(index, value) for index, value in enumerate(values) if value is not None]
        for one, other in itertools.pairwise(points):
            cv2.line(picture, one, other, hue, 2, cv2.LINE_AA)
        # Beyond as many lines as there are colours, the marks tell them apart.
        for point in points:
            if number < len(_HUES):
                cv2.circle(picture, point, 4, hue, -1, cv2.LINE_AA)
            else:
                cv2.drawMarker(picture, point, hue, cv2.MARKER_SQUARE, 9, 2)
        row = top + _LINE * number
        cv2.line(picture, (right + 12, row), (right + 32, row), hue, 2, cv2.LINE_AA)
        if number >= len(_HUES):
            cv2.drawMarker(picture, (right + 22, row), hue, cv2.MARKER_SQUARE, 9, 2)
        cv2.putText(picture, name, (right + 38, row + 4), _FONT, _SCALE, _INK, 1, cv2.LINE_AA)
    return picture


def scatter_plot(
    title: str,
    axes: tuple[str, str],
    names: Sequence[str],
    points: Sequence[tuple[float, float]],
    size: tuple[int, int] = (480, 640),
) -> Image:
    """Draws named points on two linear axes.

    Args:
        title: Above the plot.
        axes: What lies on the horizontal and on the vertical axis.
        names: Beside the points; points of one name share a colour.
        points: `(x, y)`.
        size: `(height, width)` of the picture, in pixels.

    Returns:
        `(height, width, 3)`.
    """
    height, width = size
    left, right, top, bottom = 64, width - 24, 3 * _LINE, height - 3 * _LINE
    picture = np.full((height, width, 3), 255, np.uint8)
    cv2.putText(picture, title, (8, _LINE), _FONT, 0.5, _INK, 1, cv2.LINE_AA)
    cv2.putText(picture, axes[1], (left, top - 6), _FONT, _SCALE, _INK, 1, cv2.LINE_AA)
    cv2.putText(picture, axes[0], (left, height - 8), _FONT, _SCALE, _INK, 1, cv2.LINE_AA)
    ticks = [_ticks([point[axis] for point in points]) for axis in (0, 1)]
    (x0, x1), (y0, y1) = ((axis[0], axis[-1]) for axis in ticks)

    def place(x: float, y: float) -> tuple[int, int]:
        across, up = (x - x0) / (x1 - x0), (y - y0) / (y1 - y0)
        return round(left + across * (right - left)), round(bottom - up * (bottom - top))

    for x in ticks[0]:
        cv2.line(picture, place(x, y0), place(x, y1), _GRID, 1)
        cv2.putText(
            picture, f"{x:g}", (place(x, y0)[0] - 8, bottom + _LINE), _FONT, _SCALE, _INK, 1, cv2.LINE_AA
        )
    for y in ticks[1]:
        cv2.line(picture, place(x0, y), place(x1, y), _GRID, 1)
        cv2.putText(picture, f"{y:g}", (8, place(x0, y)[1] + 5), _FONT, _SCALE, _INK, 1, cv2.LINE_AA)
    kinds = list(dict.fromkeys(names))
    taken: list[tuple[int, int, int]] = []  # x from, x to, y of the names that stand already
    for name, point in zip(names, points, strict=True):
        x, y = place(*point)
        cv2.circle(picture, (x, y), 5, _HUES[kinds.index(name) % len(_HUES)], -1, cv2.LINE_AA)
        length = cv2.getTextSize(name, _FONT, _SCALE, 1)[0][0]
        start = x + 9 if x + 9 + length < width else x - 9 - length
        row = y + 4
        while any(
            start < end and begin < start + length and abs(row - other) < 13 for begin, end, other in taken
        ):
            row -= 13
        taken.append((start, start + length, row))
        cv2.putText(picture, name, (start, row), _FONT, _SCALE, _INK, 1, cv2.LINE_AA)
    return picture


def _ticks(values: Sequence[float]) -> list[float]:
    """Chooses round numbers, four to ten of them, that enclose all values."""
    low, high = min(values), max(values)
    spread = high - low or abs(high) or 1.0
    power = 10.0 ** np.floor(np.log10(spread / 4))
    step = float(next(power * factor for factor in (10, 5, 2, 1) if spread >= 4 * power * factor))
    first, last = int(np.floor(low / step)), int(np.ceil(high / step))
    return [step * index for index in range(first, max(last, first + 1) + 1)]

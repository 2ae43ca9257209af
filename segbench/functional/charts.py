"""Bar charts without a plotting library. Pictures are RGB uint8."""

from collections.abc import Sequence

import cv2
import numpy as np

from segbench.functional.pictures import Image

_FONT, _SCALE, _LINE = cv2.FONT_HERSHEY_SIMPLEX, 0.42, 18
_INK, _FRAME = (40, 40, 40), (150, 150, 150)


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

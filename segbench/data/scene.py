"""Pictures of textured shapes with exact labels: data for everybody, at once and without a download."""

import math
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from segbench.data.spec import Color, default_palette

Points = NDArray[np.float32]

_TEXTURES = ("", "striped", "checked", "dotted")


def class_names(num_classes: int) -> list[str]:
    """Names the classes of the scenes.

    Returns:
        The background, then every shape plain, striped, checked and dotted, then numbers.
    """
    shapes = list(_SHAPES)
    named = ["background"] + [
        f"{_TEXTURES[i // 2 // len(shapes) * 2 + i % 2]} {shapes[i // 2 % len(shapes)]}".strip()
        for i in range(2 * 2 * len(shapes))
    ]
    return [*named, *(f"class {i}" for i in range(len(named), num_classes))][:num_classes]


def scene_palette(num_classes: int) -> tuple[Color, ...]:
    """Chooses the colours that labels are shown in; the background is dark grey."""
    return ((60, 60, 60), *default_palette(num_classes - 1))


def generate_scene(
    index: int, num_classes: int, size: tuple[int, int], seed: int = 0, ignore_index: int = 255
) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Draws a scene: overlapping shapes with shadows on a ground, under uneven light, with noise.

    Classes come in couples of one shape and one hue, told apart by texture only. Light, colour and size vary
    from object to object; some objects have a thin rim without a class.

    Args:
        index: Which scene; the same arguments give the same scene.
        num_classes: Classes with the background, which is 0.
        size: Height and width.
        seed: Another seed gives other scenes of the same classes.
        ignore_index: Label of the rims.

    Returns:
        Image `(H, W, 3)` uint8 RGB and label `(H, W)` uint16.
    """
    rng = np.random.default_rng((seed, index))
    height, width = size
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    image = _texture("striped", rows, columns, rng, wave=40.0, depth=0.08)[..., None] * _ground(
        rng
    )  # (H, W, 3)
    label = np.zeros(size, np.uint16)
    for _ in range(int(rng.integers(7, 13))):
        if num_classes == 1:
            break
        class_id = int(rng.integers(1, num_classes))
        points = _outline(class_id, size, rng)
        mask = np.zeros(size, np.uint8)
        cv2.fillPoly(mask, [points.round().astype(np.int32)], 255)
        paint = _paint(class_id, num_classes, rows, columns, rng)
        shadow = cv2.GaussianBlur(np.roll(mask, (4, 3), (0, 1)), (0, 0), 4) * np.float32(0.35 / 255)
        cover = cv2.GaussianBlur(mask, (3, 3), 0)[..., None] * np.float32(1 / 255)  # soft edges, as lenses draw
        image = image * (1 - shadow[..., None]) * (1 - cover) + paint * cover
        label[mask > 0] = class_id
        if rng.random() < 0.5:
            rim = np.zeros(size, np.uint8)
            cv2.polylines(rim, [points.round().astype(np.int32)], True, 255, 2)
            label[rim > 0] = ignore_index
    angle = rng.uniform(0, math.tau)
    slope = math.cos(angle) * (rows / height - 0.5) + math.sin(angle) * (columns / width - 0.5)
    light = 1 + rng.uniform(0.1, 0.45) * slope
    noise = rng.standard_normal((height, width, 3), np.float32) * 7
    return np.clip(image * light[..., None] + noise, 0, 255).astype(np.uint8), label


def _ground(rng: np.random.Generator) -> NDArray[np.float32]:
    return np.asarray(rng.uniform(120, 170) + rng.uniform(-12, 12, 3), np.float32)


def _paint(
    class_id: int,
    num_classes: int,
    rows: NDArray[np.float32],
    columns: NDArray[np.float32],
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Colours a class: hue by couple, texture by place in the couple, both a little different each time."""
    couple, couples = (class_id - 1) // 2, max(1, num_classes // 2)
    texture = _TEXTURES[couple // len(_SHAPES) * 2 % 4 + (class_id - 1) % 2]
    hue = 180 * (couple * 0.381966 % 1) + rng.normal(0, min(4.0, 30 / couples))
    saturation = (200, 130, 170)[couple % 3] + rng.normal(0, 15)
    value = (215, 165, 120)[couple // 3 % 3] + rng.normal(0, 12)
    hsv = np.array([[[hue % 180, *np.clip([saturation, value], 0, 255)]]], np.uint8)
    color = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0].astype(np.float32)
    shade = _texture(texture, rows, columns, rng, wave=7.0 + couple % 3 * 2, depth=0.38)
    return np.asarray(shade[..., None] * color, np.float32)


def _texture(
    kind: str,
    rows: NDArray[np.float32],
    columns: NDArray[np.float32],
    rng: np.random.Generator,
    wave: float,
    depth: float,
) -> NDArray[np.float32]:
    """Computes a pattern of brightness around 1, turned at random."""
    angle, shift = rng.uniform(0, math.pi), rng.uniform(0, math.tau)
    sine, cosine = math.sin(angle) * math.tau / wave, math.cos(angle) * math.tau / wave
    along = rows * cosine + columns * sine + shift
    across = columns * cosine - rows * sine
    match kind:
        case "striped":
            pattern = np.sign(np.sin(along))
        case "checked":
            pattern = np.sign(np.sin(along) * np.sin(across))
        case "dotted":
            pattern = np.sign(np.sin(along) + np.sin(across) - 0.9)
        case _:
            pattern = np.sin(along / 6) * 0.2  # plain, but not flat
    return np.asarray(1 + depth * pattern, np.float32)


def _outline(class_id: int, size: tuple[int, int], rng: np.random.Generator) -> Points:
    """Places the class's shape somewhere in the picture.

    Returns:
        `(n, 2)` corners as x and y.
    """
    shape = list(_SHAPES.values())[(class_id - 1) // 2 % len(_SHAPES)](rng)
    radius = min(size) * rng.uniform(0.09, 0.27)
    angle = rng.uniform(0, math.tau)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    center = rng.uniform(0, 1, 2) * size[::-1]
    return np.asarray(shape @ turn * radius + center, np.float32)


def _ring_of(count: int, radii: NDArray[np.floating] | float = 1.0) -> Points:
    angles = np.arange(count) * (math.tau / count)
    return np.asarray(np.stack([np.cos(angles), np.sin(angles)], 1) * np.reshape(radii, (-1, 1)), np.float32)


def _box(rng: np.random.Generator, length: float = 1.0) -> Points:
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    return np.asarray(corners * [length, rng.uniform(0.6, 0.9)], np.float32)


_SHAPES: dict[str, Callable[[np.random.Generator], Points]] = {
    "disc": lambda rng: _ring_of(48) * np.array([1, rng.uniform(0.6, 1)], np.float32),
    "box": _box,
    "triangle": lambda rng: _ring_of(3, rng.uniform(0.8, 1.3, 3)),
    "bar": lambda rng: _box(rng, 2.2) * np.array([1, 0.35], np.float32),
    "star": lambda _: _ring_of(10, np.tile([1.3, 0.55], 5)),
    "hexagon": lambda _: _ring_of(6),
    "pebble": lambda rng: _ring_of(9, rng.uniform(0.65, 1.2, 9)),
}

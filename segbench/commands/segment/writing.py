"""Writes what was found in images: pictures, probabilities, and the areas of all."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segbench.commands.segment.names import AREAS, BOUNDARY, COLORS, LABELS, OVERLAY, PROBABILITIES
from segbench.commands.segment.predictor import Labelled
from segbench.commands.segment.record import Done
from segbench.data.io.files import write_palette_image
from segbench.utils.files import atomic_write
from segbench.visualization import pictures


class OverlayStyle(NamedTuple):
    """How classes are shown.

    Attributes:
        class_names: `K` names.
        palette: `K` RGB colours.
        opacity: Share of the colours in overlays.
    """

    class_names: Sequence[str]
    palette: Sequence[Sequence[int]]
    opacity: float

    def overlay(self, image: NDArray[np.uint8], labels: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Lays the colours of labels `(H, W)` over an image `(H, W, 3)`."""
        return pictures.overlay(image, pictures.colorize(labels, self.palette), self.opacity)


def write_outputs(
    out: Path, name: str, image: NDArray[np.uint8], found: Labelled, style: OverlayStyle, replace: bool = False
) -> list[str]:
    """Writes all outputs of one image, each whole or not at all.

    Args:
        out: The folder.
        name: Of the outputs, without ending.
        image: `(H, W, 3)` RGB.
        found: What is to be written; probabilities and boundary where they are there.
        style: How classes are shown.
        replace: Take away probabilities and boundary of an earlier call where this one has none.

    Returns:
        Names of the files.
    """
    written = [name + LABELS, name + COLORS, name + OVERLAY]
    write_labels(out / written[0], found.labels, style.palette)
    colors = pictures.colorize(found.labels, style.palette)
    _write_png(out / written[1], colors)
    _write_png(out / written[2], pictures.overlay(image, colors, style.opacity))
    if found.probabilities is not None:
        with atomic_write(out / (name + PROBABILITIES)) as draft:
            np.savez_compressed(
                draft, probabilities=found.probabilities, class_names=np.array(style.class_names, dtype=np.str_)
            )
        written.append(name + PROBABILITIES)
    if found.boundary is not None:
        _write_png(out / (name + BOUNDARY), found.boundary)
        written.append(name + BOUNDARY)
    if replace:
        for ending in {PROBABILITIES, BOUNDARY}:
            if name + ending not in written:
                (out / (name + ending)).unlink(missing_ok=True)
    return written


def write_labels(path: Path, labels: NDArray[np.integer], palette: Sequence[Sequence[int]]) -> None:
    """Writes a label map as PNG.

    Args:
        path: Where to.
        labels: `(H, W)`.
        palette: `K` RGB colours. Up to 256 classes the PNG has them as its palette, so that viewers show it in
            colour, and the index is the class; beyond, it is grey of 16 bits, and the value is.
    """
    indices = pictures.index_image(labels, len(palette))
    with atomic_write(path) as draft:
        if indices.dtype == np.uint8:
            write_palette_image(draft, indices.astype(np.uint8, copy=False), palette)
        else:
            pictures.write_png(str(draft), indices)


def write_areas(out: Path, done: Iterable[tuple[str, Done]], class_names: Sequence[str]) -> None:
    """Writes areas.csv: the pixels of each class in each image.

    Args:
        out: The folder.
        done: Names and records of the images; videos have a table of their own.
        class_names: `K` names.
    """
    with (
        atomic_write(out / AREAS) as draft,
        draft.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        table = csv.writer(file)
        table.writerow(["image", "file", "class", "name", "pixels", "share"])
        for name, one in done:
            if one.pixels is not None:
                rows = area_rows(one.pixels, class_names)
                table.writerows((name, one.source, *row) for row in rows)


def area_rows(pixels: Sequence[int], class_names: Sequence[str]) -> list[tuple[int, str, int, str]]:
    """Makes a row of class, name, pixels and share for each class, also those that are not there."""
    total = sum(pixels)
    return [
        (index, name, count, f"{count / total:.6f}")
        for index, (name, count) in enumerate(zip(class_names, pixels, strict=True))
    ]


def _write_png(path: Path, picture: NDArray[np.uint8]) -> None:
    with atomic_write(path) as draft:
        pictures.write_png(str(draft), picture)

"""Labels a video frame by frame, into a video of overlays."""

import csv
import math
import os
import re
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segbench.commands.segment.names import VIDEO_AREAS, VIDEO_FRAMES, VIDEO_OVERLAY
from segbench.commands.segment.predictor import Predictor
from segbench.commands.segment.writing import OverlayStyle, area_rows, write_labels
from segbench.utils.files import atomic_write

CODEC = "mp4v"  # MPEG-4 part 2, which the OpenCV of PyPI brings along
_RATE = 25.0  # of a video that does not say
_FRAME = re.compile(r"\d{6,}\.png")


def label_video(
    path: Path,
    out: Path,
    name: str,
    predictor: Predictor,
    style: OverlayStyle,
    batch_size: int = 1,
    frames: bool = False,
    advance: Callable[[int, int], None] = lambda *_: None,
) -> tuple[list[str], str]:
    """Labels a video and writes its overlay and the areas of its classes, whole or not at all.

    OpenCV truncates the overlay to even height and width, and drops sound.

    Args:
        path: Of the video.
        out: The folder.
        name: Of the outputs, without ending.
        predictor: The model.
        style: How classes are shown.
        batch_size: Frames that are labelled together.
        frames: Also write each frame's labels, NAME_frames/000000.png and so on.
        advance: Is told the frames that are done, and how many there should be; 0 if that is not known.

    Returns:
        Names of the outputs; and one line if the video ended before its time, else an empty one.

    Raises:
        ValueError: If the video cannot be read or written, or a frame cannot be labelled.
    """
    capture = _open(path)
    try:
        rate, claimed = _facts(capture)
        folder = out / (name + VIDEO_FRAMES)
        if frames:
            _empty(folder)
        written = [name + VIDEO_OVERLAY, name + VIDEO_AREAS]
        with (
            atomic_write(out / written[0]) as film,
            atomic_write(out / written[1]) as table,
            table.open("w", encoding="utf-8", newline="") as file,
        ):
            rows = csv.writer(file)
            rows.writerow(["frame", "second", "class", "name", "pixels", "share"])
            number = 0
            with _Film(film, rate, path) as overlays:
                for batch in _batches(capture, batch_size, path):
                    for image, found in zip(batch, predictor(batch), strict=True):
                        if isinstance(found, ValueError):
                            raise ValueError(f"{path}: frame {number}: {found}")
                        overlays.add(style.overlay(image, found.labels))
                        areas = area_rows(found.pixels, style.class_names)
                        rows.writerows((number, f"{number / rate:.3f}", *row) for row in areas)
                        if frames:
                            write_labels(folder / f"{number:06d}.png", found.labels, style.palette)
                        number += 1
                    advance(number, claimed)
            if not number:
                raise ValueError(f"{path}: no frame of it can be read: it is damaged, or no video")
            overlays.check(number)
    finally:
        capture.release()
    short = f"{path} ended after {number} frames of the {claimed} that it claims" if number < claimed else ""
    return [*written, *([name + VIDEO_FRAMES] if frames else [])], short


class _Film:
    """The video that is written, opened with its first frame, whose size is that of all."""

    def __init__(self, path: Path, rate: float, source: Path) -> None:
        self._path, self._rate, self._source = path, rate, source
        self._writer: Any = None

    def __enter__(self) -> "_Film":
        return self

    def __exit__(self, *error: object) -> None:
        if self._writer is not None:
            self._writer.release()

    def add(self, frame: NDArray[np.uint8]) -> None:
        if self._writer is None:
            size = (frame.shape[1], frame.shape[0])
            code = cv2.VideoWriter.fourcc(*CODEC)
            self._writer = cv2.VideoWriter(str(self._path), cv2.CAP_FFMPEG, code, self._rate, size)
            if not self._writer.isOpened():
                raise ValueError(
                    f"{self._source}: OpenCV cannot write an overlay video of {size[0]} × {size[1]} pixels here"
                    f" (codec {CODEC}); take its frames apart and give them as photographs"
                )
        self._writer.write(np.ascontiguousarray(frame[..., ::-1]))

    def check(self, frames: int) -> None:
        """Reads the header again: OpenCV says nothing of a full disk."""
        capture = cv2.VideoCapture(str(self._path), cv2.CAP_FFMPEG)
        there = round(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
        capture.release()
        if there != frames:
            raise ValueError(
                f"{self._source}: {there} of {frames} frames arrived in the overlay video: is the disk full?"
            )


def _open(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(f"{path} is not a file, or leads to none")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # its complaints come in our words
    # FFmpeg alone: other readers take some names for patterns of many files.
    level = cv2.utils.logging.setLogLevel(0)
    try:
        capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG)
    finally:
        cv2.utils.logging.setLogLevel(level)
    if not capture.isOpened():
        raise ValueError(
            f"{path} cannot be read as a video: it is damaged, or of a format that this OpenCV does not know"
        )
    return capture


def _facts(capture: Any) -> tuple[float, int]:
    """Reads frames per second, and the number of frames, which is a guess in some formats and 0 if unknown."""
    rate, claimed = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
    if not math.isfinite(rate) or not 0 < rate <= 1000:
        rate = _RATE
    return rate, int(claimed) if math.isfinite(claimed) and claimed > 0 else 0


def _batches(capture: Any, size: int, path: Path) -> Iterator[list[NDArray[np.uint8]]]:
    frames = _frames(capture, path)
    while batch := list(islice(frames, size)):
        yield batch


def _frames(capture: Any, path: Path) -> Iterator[NDArray[np.uint8]]:
    shape: tuple[int, ...] | None = None
    for number in count():
        there, frame = capture.read()
        if not there:
            return
        if shape is not None and frame.shape != shape:
            raise ValueError(f"{path}: frame {number} is {frame.shape[:2]} large, those before {shape[:2]}")
        shape = frame.shape
        yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


def _empty(folder: Path) -> None:
    """Makes the folder of frames, or takes away those of a call that was stopped."""
    if folder.is_symlink():
        raise ValueError(f"{folder} is a link: take it away")
    folder.mkdir(exist_ok=True)
    for file in folder.iterdir():
        if _FRAME.fullmatch(file.name) or file.name.startswith("."):
            file.unlink()

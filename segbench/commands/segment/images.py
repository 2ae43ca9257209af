"""Labels images: reading, model and writing at the same time, and one failure is not the end of all."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from segbench.commands.segment.predictor import Predictor
from segbench.commands.segment.reading import LoadedImage, batches, read_ahead
from segbench.commands.segment.record import Record
from segbench.commands.segment.writing import OverlayStyle, write_outputs
from segbench.utils.errors import one_line

_MOST_WORKERS = 4  # readers, and writers; each holds an image


def predict_images(
    paths: Sequence[Path],
    made: Record,
    predictor: Predictor,
    style: OverlayStyle,
    batch_size: int = 1,
    replace: bool = False,
    advance: Callable[[], None] = lambda: None,
) -> list[str]:
    """Labels images, writes their outputs and notes each that is complete.

    Args:
        paths: Files, all with a name in the record.
        made: The record of the folder.
        predictor: The model.
        style: How classes are shown.
        batch_size: Images of one size that are labelled together.
        replace: As in `write_outputs`.
        advance: Called once for each, whatever became of it.

    Returns:
        One line for each that could not be read, labelled or written.

    Raises:
        OSError: If outputs cannot be written.
        ValueError: If the model can label nothing at all as it is set up.
    """
    # The probabilities of one image may be large: no others beside them.
    workers = 1 if predictor.probabilities else min(_MOST_WORKERS, os.cpu_count() or 1)
    problems: list[str] = []
    writing: deque[tuple[Path, list[int], Future[list[str]]]] = deque()

    def report(problem: str) -> None:
        problems.append(problem)
        advance()

    def readable() -> Iterator[LoadedImage]:
        for item in read_ahead(paths, workers):
            if item.image is None:
                report(item.problem)
            else:
                yield item

    def finish(most: int) -> None:
        while len(writing) > most:
            path, pixels, files = writing.popleft()
            try:
                made.add(path, files.result(), pixels)
            except Exception as error:
                problem = None if isinstance(error, OSError) else one_line(error, "segment")
                if problem is None:  # a bug; or a full disk, which is full for the others too
                    raise
                report(f"{path}: {problem}")
            else:
                advance()

    with ThreadPoolExecutor(workers) as writers:
        for batch in batches(readable(), batch_size):
            images = [item.image for item in batch if item.image is not None]
            for item, image, found in zip(batch, images, predictor(images), strict=True):
                if isinstance(found, ValueError):
                    report(f"{item.path}: {found}")
                    continue
                finish(most=workers - 1)
                name = made.name_of(item.path)
                files = writers.submit(write_outputs, made.out, name, image, found, style, replace)
                writing.append((item.path, found.pixels, files))
        finish(most=0)
    return problems

"""Labels photographs: reading, model and writing at the same time, and one failure is not the end of all."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from segbench.commands.segment.predictor import Labeller
from segbench.commands.segment.reading import Photograph, batches, read_ahead
from segbench.commands.segment.record import Record
from segbench.commands.segment.writing import Look, write_photograph
from segbench.utils.errors import one_line

_MOST_WORKERS = 4  # readers, and writers; each holds a photograph


def label_photographs(
    paths: Sequence[Path],
    made: Record,
    labeller: Labeller,
    look: Look,
    batch_size: int = 1,
    replace: bool = False,
    advance: Callable[[], None] = lambda: None,
) -> list[str]:
    """Labels photographs, writes their outputs and notes each that is complete.

    Args:
        paths: Files, all with a name in the record.
        made: The record of the folder.
        labeller: The model.
        look: How classes are shown.
        batch_size: Photographs of one size that are labelled together.
        replace: As in `write_photograph`.
        advance: Called once for each, whatever became of it.

    Returns:
        One line for each that could not be read, labelled or written.

    Raises:
        OSError: If outputs cannot be written.
        ValueError: If the model can label nothing at all as it is set up.
    """
    # The probabilities of one photograph may be large: no others beside them.
    workers = 1 if labeller.probabilities else min(_MOST_WORKERS, os.cpu_count() or 1)
    problems: list[str] = []
    writing: deque[tuple[Path, list[int], Future[list[str]]]] = deque()

    def report(problem: str) -> None:
        problems.append(problem)
        advance()

    def readable() -> Iterator[Photograph]:
        for photograph in read_ahead(paths, workers):
            if photograph.image is None:
                report(photograph.problem)
            else:
                yield photograph

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
            images = [photograph.image for photograph in batch if photograph.image is not None]
            for photograph, image, found in zip(batch, images, labeller(images), strict=True):
                if isinstance(found, ValueError):
                    report(f"{photograph.path}: {found}")
                    continue
                finish(most=workers - 1)
                name = made.name_of(photograph.path)
                files = writers.submit(write_photograph, made.out, name, image, found, look, replace)
                writing.append((photograph.path, found.pixels, files))
        finish(most=0)
    return problems

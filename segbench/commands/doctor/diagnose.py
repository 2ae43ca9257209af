"""The doctor's visit: lists the files, reads each once, and says what is wrong."""

import inspect
import warnings
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from segbench.commands.doctor.cache import Memory, Stamp, stamp
from segbench.commands.doctor.examine import Record, examine
from segbench.commands.doctor.file_faults import file_findings
from segbench.commands.doctor.finding import LEVELS, Finding
from segbench.commands.doctor.id_faults import id_findings
from segbench.commands.doctor.layout_faults import list_pairs
from segbench.commands.doctor.split_faults import class_findings, split_findings
from segbench.data.base import SegmentationDataModule, default_num_workers
from segbench.data.spec import DatasetSpec, Layout, Pair, Split

Job = tuple[Layout, Path, Split, Pair]
Progress = Callable[[Iterable[Record], int], Iterable[Record]]


class Diagnosis(NamedTuple):
    """What the doctor found.

    Attributes:
        records: One of each image and mask.
        findings: Errors first.
        recalled: How many records are of an earlier visit, since their files have not changed.
    """

    records: list[Record]
    findings: list[Finding]
    recalled: int = 0


def visit(
    data: SegmentationDataModule,
    num_workers: int | None = None,
    progress: Progress = lambda records, _: records,
    cache: bool = True,
) -> Diagnosis:
    """Reads a whole dataset once and names what is wrong with it.

    Args:
        data: As for training.
        num_workers: Files read at the same time; by default as many as there are free processors.
        progress: Wraps the records as they come, to show how many of the total are done.
        cache: Read only files that have changed since an earlier visit, and remember this one.

    Returns:
        The diagnosis.

    Raises:
        FileNotFoundError: If there is no dataset at all.
    """
    data.prepare_data()
    if not data.root.is_dir():
        raise FileNotFoundError(f"no folder {data.root}: give the dataset's by --data.init_args.root DIR")
    accepted = options_of(data)
    pairs, findings = list_pairs(data, accepted)
    # Where two splits show the same files, those of the first are read.
    jobs: dict[Pair, Job] = {}
    for split in pairs:
        for pair in pairs[split]:
            jobs.setdefault(pair, (data.layout, data.root, split, pair))
    memory = Memory(data.layout, data.root) if cache else None
    record_of = {pair: record for pair in jobs if memory and (record := memory.recall(pair))}
    known = set(record_of)
    try:
        new = {pair: job for pair, job in jobs.items() if pair not in record_of}
        for pair, before, record in _read(new, num_workers, progress):
            record_of[pair] = record
            if memory:
                memory.keep(pair, before, record)
    finally:  # an interrupted visit is remembered as far as it came
        if memory:
            _save(memory)
    records = [record_of[pair]._replace(split=split) for split in pairs for pair in pairs[split]]
    recalled = sum(pair in known for split in pairs for pair in pairs[split])
    findings += diagnose(records, data.spec, accepted, data.eval_batch_size)
    if any(finding.name in {"names differ", "masks elsewhere"} for finding in findings):  # nothing is missing
        missing = {"missing mask", "masks without image"}
        findings = [finding for finding in findings if finding.name not in missing]
    return Diagnosis(records, sorted(findings, key=lambda finding: LEVELS.index(finding.level)), recalled)


def _read(
    jobs: Mapping[Pair, Job], num_workers: int | None, progress: Progress
) -> Iterator[tuple[Pair, Stamp | None, Record]]:
    """Examines pairs, several at a time; each comes with the stamp of before it was read."""
    stamps: dict[Pair, Stamp | None] = {}

    def look(pair: Pair) -> Record:
        stamps[pair] = stamp(pair)
        return examine(*jobs[pair])

    # Threads: decoders and hashes run without the interpreter's lock, and nothing needs to be sent.
    with warnings.catch_warnings(), ThreadPoolExecutor(num_workers or default_num_workers()) as pool:
        warnings.simplefilter("ignore")  # Pillow's, on files that the records speak of anyway
        for pair, record in zip(jobs, progress(pool.map(look, jobs), len(jobs)), strict=True):
            yield pair, stamps[pair], record


def _save(memory: Memory) -> None:
    try:
        memory.save()
    except OSError as error:
        warnings.warn(
            f"cannot write {memory.path} ({error.strerror}), so the next visit reads all files again: name"
            " another place by SEGBENCH_CACHE",
            stacklevel=3,
        )


def options_of(data: SegmentationDataModule) -> frozenset[str]:
    """Names the options that a dataset's class has."""
    return frozenset(inspect.signature(type(data)).parameters)


def diagnose(
    records: Sequence[Record], spec: DatasetSpec, accepted: Container[str], eval_batch_size: int = 1
) -> list[Finding]:
    """Concludes from the records of all files what is wrong.

    Args:
        records: Of all splits.
        spec: Classes, and what ids mean.
        accepted: Options that the dataset's class has.
        eval_batch_size: Images in a batch of evaluation.

    Returns:
        The findings, in no order of weight.
    """
    ids = id_findings(records, spec)
    wrong = any(finding.level == "error" for finding in ids)  # then classes are not counted yet
    return [
        *file_findings(records, spec),
        *ids,
        *split_findings(records, accepted, eval_batch_size),
        *([] if wrong else class_findings(records, spec)),
    ]

"""Images per second and core, beside the pipelines of others, and where the time goes.

All read the same JPEGs and PNGs in ADE20K's layout, scale by 0.5 to 2 around a short side of 512, crop to
512×512, mirror and change colours about equally strongly, and end in a batch: those of `loading_peers` in
normalised floats, segbench's in bytes, which are normalised on the device.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from statistics import mean, median
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from segbench.commands.bench.loading_peers import MMSegManner, PlainAlbumentations
from segbench.commands.bench.loading_peers import collate as collate_floats
from segbench.commands.bench.section import CASE, Clock, Column, Row, Section, significant
from segbench.commands.bench.timing import Timing, time_side_by_side
from segbench.data.ade20k import ADE20K
from segbench.data.augment import FILL, StandardAugment, cut, pad, randomness
from segbench.data.io.decoding import decode_image, decode_mask
from segbench.data.io.files import write_image
from segbench.data.loading.dataset import Item, SegmentationDataset, collate, to_item
from segbench.data.loading.sampling import SampleIndex
from segbench.data.scene import generate_scene
from segbench.types import Batch
from segbench.utils.files import scratch

CROP = (512, 512)
SCALE = (2048, 512)  # ADE20K's
SIZE = (512, 683)  # of the images
LARGE = (1512, 2016)  # images of 3 megapixels
QUALITY = 83  # JPEGs of these scenes have some 95 KiB
FLOOR = 3  # a class of ADE20K


def section(images: int = 64, batch_size: int = 8) -> Section:
    """Describes the table.

    Args:
        images: Number of images, each of which is loaded once in a round.
        batch_size: Images of a batch.

    Returns:
        Its section.
    """
    return Section(
        "loading",
        "Loading training images, on one core",
        f"JPEGs and PNGs of {SIZE[1]}×{SIZE[0]}, crops of {CROP[1]}×{CROP[0]}. Ratios are of images per second:"
        " to MMSegmentation's pipeline, and to a plain list of albumentations.",
        (
            CASE,
            Column("where", lambda row: row["where"], is_text=True),
            Column("pipeline or stage", lambda row: row["variant"], is_text=True),
            Column("ms per image", lambda row: row["median_s"], lambda s: significant(1e3 * s)),
            Column("images/s", lambda row: 1 / row["median_s"], "{:.0f}".format),
            Column("to MMSegmentation's", lambda row: row.get("speed_up"), "{:.2f}".format),
            Column("to albumentations", lambda row: row.get("second_speed_up"), "{:.2f}".format),
            Column("to full decoding", lambda row: row.get("reduced_speed_up"), "{:.2f}".format),
            Column("share", lambda row: row.get("share"), "{:.0%}".format),
        ),
        {
            f"{images} images": partial(measure, images=images, batch_size=batch_size),
            "large photographs": partial(measure_reduced, images=max(2, images // 16)),
        },
    )


def measure(clock: Clock, images: int, batch_size: int) -> list[Row]:
    """Measures all pipelines in turn, each on one core, on files in a temporary folder.

    Args:
        clock: How often; nothing here runs on a GPU.
        images: As in `section`.
        batch_size: As in `section`.

    Returns:
        Pipelines, MMSegmentation's manner first, in one process and through a worker; then the stages.
    """
    with scratch() as root, _one_thread():
        write_pairs(root, images, SIZE)
        data = ADE20K(root, img_size=CROP, scale=SCALE, batch_size=batch_size, num_workers=1)
        dataset = data.dataset("train")
        files = [(pair.image, pair.label) for pair in dataset.pairs if pair.label is not None]
        sizes = [mean(path.stat().st_size for path in paths) / 1024 for paths in zip(*files, strict=True)]
        case = f"JPEG of {sizes[0]:.0f} KiB, PNG of {sizes[1]:.0f} KiB"
        mmseg, plain = MMSegManner(CROP, SCALE), PlainAlbumentations(CROP)
        numbers = count()
        loaders: dict[str, DataLoader[Any]] = {
            "MMSegmentation's manner": _peer_loader(mmseg, files, batch_size),
            "plain albumentations": _peer_loader(plain, files, batch_size),
            "segbench": data.train_dataloader(),
        }
        batches = [range(i, min(i + batch_size, images)) for i in range(0, images, batch_size)]
        ways: dict[str, Callable[[range], object]] = {
            "MMSegmentation's manner": lambda batch: collate_floats([mmseg(*files[i]) for i in batch]),
            "plain albumentations": lambda batch: collate_floats([plain(*files[i]) for i in batch]),
            "segbench": lambda batch: collate([dataset[SampleIndex(i, next(numbers))] for i in batch]),
        }
        rows: list[Row] = []
        for where, works in (
            ("one process", {name: partial(_each, way, batches) for name, way in ways.items()}),
            ("one worker", {name: partial(_exhaust, loader) for name, loader in loaders.items()}),
        ):
            timings = time_side_by_side(works, clock.repeats, torch.device("cpu"), clock.warm_up)
            rows += _rows(case, where, timings, images)
        rounds = [
            load_in_stages(dataset, [list(batch) for batch in batches], next(numbers))[1]
            for _ in range(clock.repeats)
        ]
    stages = {name: median(seconds[name] for seconds in rounds) / images for name in rounds[0]}
    whole = sum(stages.values())
    return rows + [
        {"case": case, "where": "stage", "variant": name, "median_s": seconds, "share": seconds / whole}
        for name, seconds in stages.items()
    ]


def measure_reduced(clock: Clock, images: int) -> list[Row]:
    """Measures what `reduced_decode` saves where images are large, with crops and scale as above.

    Args:
        clock: How often; nothing here runs on a GPU.
        images: Number of images, each of which is loaded once in a round.

    Returns:
        Loading with full decoding, then with reduced.
    """
    with scratch() as root, _one_thread():
        write_pairs(root, images, LARGE)
        pairs = ADE20K(root).pairs("train")
        size = mean(pair.image.stat().st_size for pair in pairs) / 1024
        ways = {
            name: ADE20K(root, img_size=CROP, scale=SCALE, reduced_decode=reduced).dataset("train")
            for name, reduced in (("segbench", False), ("segbench, reduced_decode", True))
        }
        numbers = {name: count() for name in ways}  # the same draws for both
        works = {name: partial(_draw_each, dataset, numbers[name], images) for name, dataset in ways.items()}
        timings = time_side_by_side(works, clock.repeats, torch.device("cpu"), clock.warm_up)
    return [
        {
            "case": f"JPEG of {LARGE[1]}×{LARGE[0]}, {size:.0f} KiB",
            "where": "one process",
            "variant": name,
            "median_s": timing.median_s / images,
            "seconds": [seconds / images for seconds in timing.seconds],
            "reduced_speed_up": 1 / timing.ratio,
        }
        for name, timing in timings.items()
    ]


def write_pairs(root: Path, images: int, size: tuple[int, int]) -> None:
    """Writes scenes as ADE20K's files, with labels by Pillow, whose PNG filters are ADE20K's."""
    layout, spec = ADE20K.layout, ADE20K.spec
    for i in track(range(images), "Drawing images", transient=True):
        image, label = generate_scene(i, spec.num_classes, size, ignore_index=spec.ignore_index)
        # Images have a ground and a sky: with one background, windows that it fills would be drawn again
        # and again, which costs MMSegmentation most.
        label[size[0] // 2 :][label[size[0] // 2 :] == 0] = FLOOR
        pair = layout.place(root, "train", i + 1)
        if pair.label is None:
            raise TypeError("ADE20K's training images have labels")
        pair.label.parent.mkdir(parents=True, exist_ok=True)
        write_image(pair.image, image, QUALITY)
        Image.fromarray(spec.encode(label).astype(np.uint8)).save(pair.label)


def load_in_stages(
    dataset: SegmentationDataset, batches: list[list[int]], first: int = 0
) -> tuple[list[Batch], dict[str, float]]:
    """Does what the dataset does, one step after another, with a clock.

    Args:
        dataset: With the standard augmentation.
        batches: Places in it; draws are numbered from `first` on.
        first: Number of the first draw.

    Returns:
        The batches, and the seconds of each stage, all images together.
    """
    augment = dataset.augment
    if not isinstance(augment, StandardAugment) or augment.colors is None:
        raise TypeError("stages are those of StandardAugment with colours")
    seconds: dict[str, float] = {}
    numbers = count(first)
    done = []
    for batch in batches:
        items: list[Item] = []
        for name, image_path, label_path in (dataset.pairs[i] for i in batch):
            if label_path is None:
                raise TypeError("training images have labels")
            with _timed(seconds, "read files"):
                image_data, label_data = image_path.read_bytes(), label_path.read_bytes()
            with _timed(seconds, "decode JPEG"):
                image = decode_image(image_path, image_data)
            with _timed(seconds, "decode PNG"):
                mask = decode_mask(label_path, label_data)
            with _timed(seconds, "training ids"):
                label = dataset.spec.decode(mask)
            with _timed(seconds, "draw a window"):
                rng = randomness(augment.seed, next(numbers))
                view = augment.draw(label, rng)
            with _timed(seconds, "crop, flip and scale"):
                image, label = cut(image, view, cv2.INTER_LINEAR), cut(label, view, cv2.INTER_NEAREST)
            with _timed(seconds, "colours"):
                image = augment.recolor(image, rng)
            with _timed(seconds, "pad"):
                image, label = pad(image, CROP, FILL), pad(label, CROP, augment.ignore_index)
            with _timed(seconds, "to tensors"):
                items.append(to_item(name, image, label))
        with _timed(seconds, "collate"):
            done.append(collate(items))
    return done, seconds


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start


class _Pairs(Dataset[tuple[Tensor, Tensor]]):
    """A pipeline of others as a data loader takes it."""

    def __init__(
        self, pipeline: Callable[[Path, Path], tuple[Tensor, Tensor]], files: list[tuple[Path, Path]]
    ) -> None:
        self.pipeline = pipeline
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.pipeline(*self.files[index])


def _peer_loader(
    pipeline: Callable[[Path, Path], tuple[Tensor, Tensor]], files: list[tuple[Path, Path]], batch_size: int
) -> DataLoader[tuple[Tensor, Tensor]]:
    return DataLoader(
        _Pairs(pipeline, files),
        batch_size,
        num_workers=1,
        persistent_workers=True,
        worker_init_fn=_start_worker,
    )


def _start_worker(_: int) -> None:
    cv2.setNumThreads(0)


def _each(load: Callable[[range], object], batches: list[range]) -> None:
    for batch in batches:
        load(batch)


def _draw_each(dataset: SegmentationDataset, numbers: Iterator[int], images: int) -> None:
    for image in range(images):
        dataset[SampleIndex(image, next(numbers))]


def _exhaust(loader: DataLoader[Any]) -> None:
    for _ in loader:
        pass


def _rows(case: str, where: str, timings: dict[str, Timing], images: int) -> list[Row]:
    plain = timings["plain albumentations"].ratio
    return [
        {
            "case": case,
            "where": where,
            "variant": name,
            "median_s": timing.median_s / images,
            "seconds": [seconds / images for seconds in timing.seconds],
            "speed_up": 1 / timing.ratio,
            "second_speed_up": plain / timing.ratio,
        }
        for name, timing in timings.items()
    ]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keeps OpenCV and torch to one thread, as in a worker process."""
    threads = cv2.getNumThreads(), torch.get_num_threads()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads[0])
        torch.set_num_threads(threads[1])

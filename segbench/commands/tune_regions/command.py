"""`segbench tune-regions`: searches parameters of the region post-processing on the validation split."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from rich.progress import Progress
    from torch import Tensor

    from segbench.commands.tune_regions.search import Counts
    from segbench.data.base import SegmentationDataModule
    from segbench.tasks.base import Task
    from segbench.types import Batch

from segbench.utils.environment import Device, choose_device


def run(args: list[str]) -> None:
    """Reads the options, and the data from the checkpoint unless they are given.

    Args:
        args: As on the command line, without the verb.

    Raises:
        ValueError: If the checkpoint is none or has no validation split, or a number is out of range.
        FileExistsError: If a file to be written is there already.
    """
    import argparse

    import yaml

    from segbench.checkpoints.reading import read_checkpoint, run_config
    from segbench.checkpoints.trust import read_names
    from segbench.data.base import SegmentationDataModule
    from segbench.parsing.parser import ExplainedParser

    parser = ExplainedParser(prog="segbench tune-regions", description=__doc__)
    parser.add_argument("-c", "--config", action="config", help="YAML that changes the data.")
    parser.add_subclass_arguments(SegmentationDataModule, "data", help="Default: the checkpoint's dataset.")
    parser.add_function_arguments(tune_regions, skip={"data"})
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--checkpoint")
    finder.add_argument("--trust", action="append", default=[])
    found, _ = finder.parse_known_args(args)
    checkpoint = found.checkpoint
    own = []
    if checkpoint is not None:
        saved = run_config(read_checkpoint(checkpoint), checkpoint, read_names(found.trust))
        own = ["--config", yaml.safe_dump({"data": saved["data"]})]
    built = parser.instantiate(parser.parse_args([*own, *args]))
    given: dict[str, Any] = built.as_dict()
    given.pop("config", None)
    tune_regions(**given)


def tune_regions(
    data: "SegmentationDataModule",
    checkpoint: Path,
    out: Path | None = None,
    trials: int = 60,
    images: int | None = None,
    seed: int = 0,
    workers: int | None = None,
    device: Device = "auto",
    trust: str | list[str] | None = None,
) -> None:
    """Labels the validation split with many sets of parameters, and says which is best and what it gains.

    Each image is predicted once, and no probabilities are kept: all trials see it while it is in memory.

    Args:
        data: The dataset.
        checkpoint: A checkpoint of `segbench fit`.
        out: Folder for regions.yaml (an overlay with the best parameters), tuning.md and tuning.json.
        trials: Sets of parameters; the first are the published ones, the others are drawn from a grid.
        images: Images to take, spread evenly over the split; by default all.
        seed: Of the trials, of the two folds and of the interval.
        workers: Trials computed at the same time; by default as many as there are free processors.
        device: Where the model computes; auto takes a GPU where there is one.
        trust: Packages beside segbench whose classes may be built from the checkpoint.

    Raises:
        ValueError: If a number is out of range, or there is no validation split of two images or more.
        FileExistsError: If a file to be written is there already, or `out` is not a folder.
    """
    import os

    from rich.console import Console
    from rich.progress import Progress

    import segbench
    from segbench.commands.tune_regions.search import draw_trials
    from segbench.tasks.classes import class_order

    files = [] if out is None else [out / name for name in ("regions.yaml", "tuning.md", "tuning.json")]
    for file in files:
        if file.exists():
            raise FileExistsError(f"{file} exists and stays as it is: give another --out, or take it away")
    if (images is not None and images < 2) or (workers is not None and workers < 1):
        raise ValueError(f"images={images} must be at least 2 and workers={workers} at least 1")
    sets = draw_trials(trials, seed)
    place = choose_device(device)
    try:
        data.prepare_data()
        dataset = data.dataset("val")
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(f"tune-regions needs a validation split, and never takes test: {error}") from None
    if len(dataset) < 2:
        raise ValueError(f"tune-regions needs 2 validation images or more, not {len(dataset)}")
    task = segbench.load(checkpoint, trust).to(place)
    if (order := class_order(task.class_names, data.class_names, checkpoint)) is not None:
        task.predict_in_order(order, task.palette)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)  # what cannot be written is known before the work
    number = min(images or len(dataset), len(dataset))
    wanted = {index * len(dataset) // number for index in range(number)}
    threads = workers or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    with Progress(console=Console(stderr=True)) as progress:
        counts = _count(task, data, wanted, sets, threads or 1, progress)
    _report(counts, sets, seed, checkpoint, files)


def _count(
    task: "Task",
    data: "SegmentationDataModule",
    wanted: set[int],
    sets: list[dict[str, float]],
    threads: int,
    progress: "Progress",
) -> "Counts":
    """Labels every image without post-processing and with each set of parameters."""
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np
    import torch

    from segbench.commands.tune_regions.search import Counts
    from segbench.metrics.segmentation import confusion_matrix
    from segbench.postprocess.regions import Regions

    trials = [Regions(**options) for options in sets]  # type: ignore[arg-type]
    bar = progress.add_task("tune-regions", total=len(wanted))
    true, predicted, hit = [], [], []
    with ThreadPoolExecutor(threads) as pool, torch.inference_mode():
        for image, target in _images(data, wanted, next(task.parameters()).device):
            (found,) = task.predict_proba(image)
            probabilities, boundary = found.probabilities.cpu().numpy(), found.boundary.cpu().numpy()
            target = target.cpu()
            labels = [found.probabilities.argmax(0).cpu()]
            processed = pool.map(lambda one: one(probabilities, boundary), trials)  # noqa: B023 (used at once)
            labels += [torch.from_numpy(one) for one in processed]
            matrices = [confusion_matrix(one, target, task.num_classes, data.ignore_index) for one in labels]
            true.append(matrices[0].sum(1).numpy())
            predicted.append(np.stack([matrix.sum(0).numpy() for matrix in matrices]))
            hit.append(np.stack([matrix.diagonal().numpy() for matrix in matrices]))
            progress.advance(bar)
    return Counts(np.stack(true), np.stack(predicted), np.stack(hit))


def _images(
    data: "SegmentationDataModule", wanted: set[int], device: "torch.device"
) -> Iterator[tuple["Tensor", "Tensor"]]:
    """Yields image `(1, 3, H, W)` on the device and label `(H, W)` of the wanted validation images."""
    index = -1
    batch: Batch
    for batch in data.val_dataloader():
        for image, target in zip(batch.image, batch.label, strict=True):
            index += 1
            if index in wanted:
                yield image[None].to(device), target


def _report(
    counts: "Counts", sets: list[dict[str, float]], seed: int, checkpoint: Path, files: list[Path]
) -> None:
    """Prints and writes what came out."""
    import json

    import yaml

    from segbench.commands.tune_regions.search import miou, two_fold_gain
    from segbench.utils.files import atomic_write

    scores = miou(counts).tolist()
    gain = two_fold_gain(counts, seed)
    best = max(range(len(sets)), key=lambda trial: scores[1 + trial])
    chosen = {"class_path": "segbench.postprocess.regions.Regions", "init_args": sets[best]}
    overlay = yaml.safe_dump({"model": {"init_args": {"postprocess": chosen}}}, sort_keys=False)
    difference, verdict = 100 * (gain.regions - gain.raw), "the interval holds 0: the gain may be chance"
    if gain.low > 0:
        verdict = "a gain"
    elif gain.high < 0:
        verdict = "a loss: leave post-processing out"
    lines = [
        f"{len(counts.true)} validation images, {len(sets)} trials, seed {seed}, {checkpoint}",
        "",
        "| labels | mIoU |",
        "|---|--:|",
        f"| argmax class of each pixel | {100 * scores[0]:.2f} |",
        f"| regions, published parameters | {100 * scores[1]:.2f} |",
        f"| regions, best of the trials on these same images | {100 * scores[1 + best]:.2f} |",
        f"| regions, each half with the best of the other half | {100 * gain.regions:.2f} |",
        "",
        f"Two-fold gain {difference:+.2f} points, 95 % interval {100 * gain.low:+.2f} to "
        f"{100 * gain.high:+.2f} (paired bootstrap over images, parameters held fixed): {verdict}.",
    ]
    print(
        "\n".join(
            [
                *lines,
                "",
                "Best on all of them, as YAML for `segbench test --checkpoint CKPT --config FILE`:",
                "",
            ]
        )
    )
    print(overlay, end="")
    if not files:
        return
    content = {
        "checkpoint": str(checkpoint),
        "images": len(counts.true),
        "seed": seed,
        "raw": scores[0],
        "gain": gain._asdict(),
        "best": best,
        "trials": [{"parameters": one, "miou": score} for one, score in zip(sets, scores[1:], strict=True)],
    }
    texts = (
        overlay,
        "\n".join([*lines, "", "```yaml", f"{overlay}```", ""]),
        json.dumps(content, indent=1) + "\n",
    )
    for file, text in zip(files, texts, strict=True):
        with atomic_write(file) as draft:
            draft.write_text(text, encoding="utf-8")

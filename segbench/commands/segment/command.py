"""`segbench segment`: images and videos in; label maps, colours, overlays and areas out."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from segbench.postprocess.base import PostProcessor
from segbench.utils.environment import Device, choose_device
from segbench.utils.printable import escape_controls

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.progress import Progress

    from segbench.commands.segment.predictor import Predictor
    from segbench.commands.segment.record import Record
    from segbench.commands.segment.writing import OverlayStyle
    from segbench.tasks.base import Task


POSITIONAL = {
    "images": {
        "nargs": "+",
        "type": Path,
        "help": "Photographs, folders of them, patterns such as 'photographs/**/*.jpg', and videos.",
    },
}


def segment(
    images: list[Path],
    checkpoint: Path,
    out: Path,
    window: int | tuple[int, int] | None = None,
    stride: int | tuple[int, int] | None = None,
    scales: float | list[float] | None = None,
    flip: bool | None = None,
    postprocess: PostProcessor | None = None,
    batch_size: int = 4,
    probabilities: bool = False,
    boundary: bool = False,
    frames: bool = False,
    opacity: float = 0.5,
    overwrite: bool = False,
    device: Device = "auto",
    trust: str | list[str] | None = None,
) -> None:
    """Labels images of any size with the checkpoint's own classes and colours.

    What is complete in `out`, of the same image, checkpoint and options, is left as it is: after a kill
    the same command resumes.

    Args:
        images: Images, folders of images, patterns, and videos.
        checkpoint: A checkpoint of `segbench fit`, or a safetensors file or folder of `segbench export`.
        out: Folder for NAME.png (classes, as a palette PNG), NAME_color.png, NAME_overlay.png and areas.csv
            (pixels of each class in each image); of a video NAME_overlay.mp4 and NAME_areas.csv. Its
            segment.jsonl says what was made of what.
        window: Side, or height and width, of sliding windows, instead of those of training. Large images
            need one where the checkpoint has none.
        stride: Step between windows.
        scales: Factors of its size at which an image is seen, the probabilities averaged; instead of the
            checkpoint's own.
        flip: See each scale mirrored as well.
        postprocess: Class that makes labels of probabilities, such as segbench.postprocess.regions.Regions, in
            place of the checkpoint's own.
        batch_size: Images of one size, or frames, that are labelled together; those with probabilities,
            boundary or post-processing are labelled one by one.
        probabilities: Also write NAME_probabilities.npz: `probabilities` (K, H, W) float16 and `class_names`.
            Takes 6 bytes of memory for each class and pixel of an image.
        boundary: Also write NAME_boundary.png, 255 for a certain boundary: that of the boundary head, or
            without one the edges of the argmax classes. Takes 4 bytes for each class and pixel.
        frames: Also write the labels of each frame of a video, NAME_frames/000000.png and so on.
        opacity: Share of the colours in the overlay, from 0 to 1.
        overwrite: Label all again, and overwrite what is in `out`.
        device: Where to compute; auto takes a GPU where there is one.
        trust: Packages beside segbench whose classes may be built from the checkpoint.

    Raises:
        ValueError: If there is nothing to label, the checkpoint is none, or `out` holds something else.
        SystemExit: With status 1 if something could not be read or labelled; the rest is done. With 130 after
            an interrupt.
    """
    import sys

    import segbench
    from segbench.commands.segment import inputs, record, writing
    from segbench.commands.segment.images import predict_images
    from segbench.commands.segment.predictor import Predictor

    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity must lie in [0, 1]; got {opacity}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size}")
    found = inputs.find(images, out, record.written_files(out))
    place = choose_device(device)
    task = segbench.load(checkpoint, trust).to(place)
    if postprocess is not None:
        postprocess.check(task.num_classes)
        task.postprocess = postprocess
    _set_views(task, window, stride, scales, flip, batch_size)
    one_by_one = probabilities or boundary or task.postprocess is not None
    predictor = Predictor(task, place, probabilities, boundary)
    style = writing.OverlayStyle(task.class_names, task.palette, opacity)
    options = {
        "checkpoint": record.checkpoint_digest(checkpoint)[:16],
        **_described(task),
        "probabilities": probabilities,
        "boundary": boundary,
        "frames": frames,
        "opacity": opacity,
    }
    for line in found.notes:
        print(f"segbench: {escape_controls(line)}", file=sys.stderr)
    problems = list(found.closed)
    with record.open_record(out, found.files, options, overwrite) as made:
        todo = [file for file in found.files if not made.is_done(file)]
        before = len(found.files) - len(todo)
        try:
            with _progress(hidden=not todo) as progress:
                loaded = [file for file in todo if not inputs.is_video(file)]
                size = 1 if one_by_one else batch_size
                problems += predict_images(
                    loaded, made, predictor, style, size, overwrite, _advancing(progress, loaded)
                )
                for file in filter(inputs.is_video, todo):
                    problems += _label_video(file, made, predictor, style, size, frames, progress)
        except KeyboardInterrupt:
            print("segbench: stopped; the same command resumes from here", file=sys.stderr)
            raise SystemExit(130) from None
        finally:
            writing.write_areas(out, sorted(made.done.items()), task.class_names)
        complete = sum(map(made.is_done, found.files))
    kept = f", {before} of them from before" if before else ""
    what = "files" if any(map(inputs.is_video, found.files)) else "photographs"
    print(f"{complete} of {len(found.files)} {what} are in {out}{kept}")
    for line in problems:
        print(f"segbench: skipped: {escape_controls(line)}", file=sys.stderr)
    if problems:
        raise SystemExit(1)


def _set_views(
    task: "Task",
    window: int | tuple[int, int] | None,
    stride: int | tuple[int, int] | None,
    scales: float | list[float] | None,
    flip: bool | None,
    batch_size: int,
) -> None:
    """Puts other windows and views in place of the checkpoint's own, where given."""
    from segbench.inference.sliding_window import check_windows
    from segbench.inference.test_time_augmentation import check_scales

    windows = task.views.windows
    if window is not None or stride is not None:
        windows = windows._replace(window=windows.window if window is None else window, stride=stride)
    check_windows(windows)
    # Images that are seen whole are windows as well.
    windows = windows._replace(windows_per_batch=max(windows.windows_per_batch, batch_size))
    given = task.views.scales if scales is None else [scales] if isinstance(scales, (int, float)) else scales
    check_scales(given)
    task.views = task.views._replace(
        scales=given, flip=task.views.flip if flip is None else flip, windows=windows
    )


def _described(task: "Task") -> dict[str, Any]:
    """Lists what decides on the labels beside the weights, for the record."""
    import json

    windows = task.views.windows._asdict()
    speed = {"windows_per_batch", "tile_bytes"}
    options = {key: value for key, value in windows.items() if key not in speed}
    options |= {"scales": list(task.views.scales), "flip": task.views.flip, "postprocess": None}
    if task.postprocess is not None:
        kind = type(task.postprocess)
        arguments = json.dumps(
            vars(task.postprocess), sort_keys=True, default=lambda value: type(value).__name__
        )
        options["postprocess"] = f"{kind.__module__}.{kind.__qualname__} {arguments}"
    return options


def _progress(hidden: bool) -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=Console(stderr=True), disable=hidden)


def _advancing(progress: "Progress", loaded: list[Path]) -> "Callable[[], None]":
    """Shows a bar, if there is anything to do, and says how it is moved on."""
    if not loaded:
        return lambda: None
    bar = progress.add_task("images", total=len(loaded))
    return lambda: progress.advance(bar)


def _label_video(
    path: Path,
    made: "Record",
    predictor: "Predictor",
    style: "OverlayStyle",
    batch_size: int,
    frames: bool,
    progress: "Progress",
) -> list[str]:
    """Labels a video, and returns one line if it could not be."""
    import sys

    from segbench.commands.segment.predictor import Predictor
    from segbench.commands.segment.video import label_video

    bar = progress.add_task("frames", total=None)

    def advance(done: int, total: int) -> None:
        progress.update(bar, completed=done, total=max(done, total) if total else None)

    plain = Predictor(predictor.task, predictor.device)  # probabilities are for images
    try:
        files, note = label_video(path, made.out, made.name_of(path), plain, style, batch_size, frames, advance)
    except ValueError as error:
        return [str(error)]
    if note:
        print(f"segbench: note: {escape_controls(note)}", file=sys.stderr)
    made.add(path, files, None)
    return []

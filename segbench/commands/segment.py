"""`segbench segment`: photographs in; label maps, colours and overlays out."""

from pathlib import Path

from segbench.device import Device, choose_device
from segbench.postprocess.base import PostProcessor

POSITIONAL = {"images": {"nargs": "+", "type": Path, "help": "Photographs, or folders of photographs."}}


def segment(
    images: list[Path],
    checkpoint: Path,
    out: Path,
    window: tuple[int, int] | None = None,
    stride: tuple[int, int] | None = None,
    opacity: float = 0.5,
    device: Device = "auto",
    postprocess: PostProcessor | None = None,
    trust: str | list[str] | None = None,
) -> None:
    """Labels photographs of any size with the checkpoint's own classes and colours.

    Args:
        images: Photographs, or folders of photographs.
        checkpoint: A checkpoint of `segbench fit`, or a safetensors file or folder of `segbench export`.
        out: Folder for NAME.png (class indices), NAME_color.png and NAME_overlay.png.
        window: Height and width of sliding windows, instead of those of training.
        stride: Step between windows.
        opacity: Share of the colours in the overlay, from 0 to 1.
        device: Where to compute; auto takes a GPU where there is one.
        postprocess: Class that makes labels of probabilities, such as segbench.postprocess.regions.Regions, in
            place of the checkpoint's own.
        trust: Packages beside segbench whose classes may be built from the checkpoint.

    Raises:
        ValueError: If there is nothing to label, or the checkpoint is none.
        SystemExit: With status 1 if some photographs could not be read; the others are done.
    """
    import sys

    import torch
    from rich.progress import track

    import segbench
    from segbench.data.files import read_image
    from segbench.functional import pictures

    files = _find(images, out)
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity must lie in [0, 1]; got {opacity}")
    place = choose_device(device)
    task = segbench.load(checkpoint, trust).to(place)
    if postprocess is not None:
        postprocess.check(task.num_classes)
        task.postprocess = postprocess
    out.mkdir(parents=True, exist_ok=True)
    unreadable = []
    for name, file in track(files.items(), description="segment"):
        try:
            image = read_image(file)
        except (ValueError, OSError) as error:
            unreadable.append(str(error))
            continue
        with torch.inference_mode():
            batch = torch.from_numpy(image).permute(2, 0, 1)[None].to(place)
            labels = task.segment(batch, window=window, stride=stride)[0].cpu().numpy()
        colors = pictures.colorize(labels, task.palette)
        indices = pictures.index_image(labels, task.num_classes)
        drawn = (indices, colors, pictures.overlay(image, colors, opacity))
        for output, picture in zip(_outputs(name), drawn, strict=True):
            pictures.write_png(str(out / output), picture)
    print(f"{len(files) - len(unreadable)} of {len(files)} photographs are in {out}")
    for line in unreadable:
        print(f"segbench: skipped: {line}", file=sys.stderr)
    if unreadable:
        raise SystemExit(1)


def _find(images: list[Path], out: Path) -> dict[str, Path]:
    """Lists photographs by the name of their outputs.

    Args:
        images: Photographs, or folders of photographs.
        out: Where outputs go; what lies there already is no photograph.

    Returns:
        Each photograph by a name of its own: two of one name are told apart by a number.

    Raises:
        ValueError: If there is none, or an output would replace one of them.
    """
    from segbench.data.files import SUFFIXES

    files: list[Path] = []
    for path in images:
        if path.is_dir():
            inside = (file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
            shown = (file for file in inside if not file.name.startswith("."))
            own = out.resolve() if out.resolve() != path.resolve() else None  # of an earlier call
            files.extend(sorted(file for file in shown if own not in file.resolve().parents))
        elif path.is_file():
            files.append(path)
        else:
            raise ValueError(f"there is no photograph {path}")
    if not files:
        raise ValueError(f"no photographs ({', '.join(sorted(SUFFIXES))}) in {', '.join(map(str, images))}")
    photographs = {file.resolve() for file in files}
    named: dict[str, Path] = {}
    taken: set[str] = set()
    for file in files:
        name, number = file.stem, 1
        while taken & set(_outputs(name)):
            number += 1
            name = f"{file.stem}-{number}"
        taken.update(_outputs(name))
        named[name] = file
    for output in sorted(taken):
        if (out / output).resolve() in photographs:
            raise ValueError(f"{out / output} is a photograph and would be written over; give another --out")
    return named


def _outputs(name: str) -> tuple[str, str, str]:
    """Names the files that a photograph leads to: class indices, colours, overlay."""
    return f"{name}.png", f"{name}_color.png", f"{name}_overlay.png"

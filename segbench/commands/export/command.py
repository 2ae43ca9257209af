"""`segbench export`: a checkpoint for use elsewhere, compared with the model after writing."""

from pathlib import Path
from typing import Literal

Format = Literal["safetensors", "onnx", "pt2", "huggingface"]
SUFFIXES = {"safetensors": ".safetensors", "onnx": ".onnx", "pt2": ".pt2", "huggingface": ""}


def export(
    checkpoint: Path,
    format: Format,  # noqa: A002 (the name users know)
    out: Path,
    photograph: bool = False,
    image_size: tuple[int, int] | None = None,
    opset: int | None = None,
    tolerance: float = 1e-4,
    license: str = "unknown",  # noqa: A002 (the name Hugging Face gives it)
    trust: str | list[str] | None = None,
) -> None:
    """Writes a trained model in another form, and keeps it only if it computes the same.

    Args:
        checkpoint: A checkpoint of `segbench fit`, or what an earlier export wrote.
        format: safetensors: weights and configuration, which all verbs of segbench read. onnx and pt2: the
            model as a graph, for ONNX Runtime and torch.export. huggingface: a folder with config.json,
            model.safetensors and a model card.
        out: The new file, or for huggingface the new folder.
        photograph: Put normalisation, upsampling and argmax into the graph, so that it takes uint8 images
            and gives labels; without, it takes normalised images and gives the decoder's logits.
        image_size: Height and width to fix in the graph; by default they stay free where the model allows it.
        opset: Version of ONNX's operators; 18 by default.
        tolerance: Largest difference between the outputs of graph and model.
        license: Of the weights, as Hugging Face spells it (apache-2.0, cc-by-nc-4.0, …), for the model card.
        trust: Packages beside segbench whose classes may be built from the checkpoint.

    Raises:
        ValueError: If the checkpoint is none, or the file would not compute what the model computes.
        FileExistsError: If `out` is there already.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists and stays as it is: give another --out, or take it away")
    if format != "huggingface" and out.suffix != SUFFIXES[format]:
        raise ValueError(f"out: {out} should end in {SUFFIXES[format]}, by which others know the format")
    graph = format in {"onnx", "pt2"}
    if not graph and (photograph or image_size is not None):
        raise ValueError(f"photograph and image_size shape a graph; {format} holds weights alone")
    if opset is not None and (format != "onnx" or opset < 18):
        raise ValueError(f"opset={opset}: it is for --format onnx, and at least 18")

    from segbench.checkpoints.reading import read_checkpoint, restore_task

    content = read_checkpoint(checkpoint)
    task = restore_task(content, checkpoint, trust)
    out.parent.mkdir(parents=True, exist_ok=True)
    if format == "safetensors":
        from segbench.commands.export.weights import write_weights

        write_weights(content, task, out, trust)
        print(f"{_describe(out)}; it was read back, and all weights are the same")
    elif format == "huggingface":
        from segbench.commands.export.hub_folder import write_hub_folder

        write_hub_folder(content, task, checkpoint, out, license, trust)
        print(f"{out}: {', '.join(sorted(file.name for file in out.iterdir()))}")
        if license == "unknown":
            print("its model card states no licence of the weights; --license gives one")
    else:
        from segbench.commands.export.onnx_file import OPSET
        from segbench.commands.export.parity import lines
        from segbench.commands.export.write import write_graph

        opset = opset or OPSET
        written = write_graph(
            task,
            out,
            format,
            photograph=photograph,
            image_size=image_size,
            opset=opset,
            tolerance=tolerance,
        )
        form = written.form
        print(
            f"{_describe(out)}{f', opset {opset}' if format == 'onnx' else ''}, "
            f"exported and compared in {written.seconds:.1f} s"
        )
        for free, reason in written.refusals.items():
            print(f"{'image size' if free == 'size' else 'batch'} could not stay free: {reason}")
        height, width = form.img_size
        print(
            {
                "size": "batch and image size are free"
                + ("" if photograph else f", in multiples of {form.multiple[0]}×{form.multiple[1]} pixels"),
                "batch": f"batch is free, images are {height}×{width}",
                "nothing": f"one image of {height}×{width}",
            }[form.free]
        )
        for line in lines(written.agreements, form):
            print(line)
        if photograph and getattr(task, "postprocess", None) is not None:
            print("labels are the argmax classes: the checkpoint's post-processing is not in the file")


def _describe(out: Path) -> str:
    return f"{out}: {out.stat().st_size / 1e6:.1f} MB"

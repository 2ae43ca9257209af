"""`segbench convert`: checkpoints of other code bases become segbench's."""

from pathlib import Path
from typing import Literal

POSITIONAL = {"checkpoint": {"type": Path, "help": "checkpoint.pth of Segmenter, or a .pth of MMSegmentation."}}


def convert(
    checkpoint: Path,
    source: Literal["segmenter", "mmsegmentation"],
    out: Path,
    config: Path | None = None,
    classes: Path | None = None,
    neck_iterations: int | None = None,
) -> None:
    """Writes a self-describing checkpoint with the weights of another code base, and says what became of each.

    Args:
        checkpoint: The file to be converted; read without running code from it.
        source: Where it is from: segmenter is the official code.
        out: The new checkpoint, such as NAME.ckpt; must not be there yet.
        config: Of segmenter, variant.yml where it does not lie beside the checkpoint; of mmsegmentation, the
            resolved configuration from the work folder where the checkpoint carries none.
        classes: Text file of class names, one per line in the order of training ids, or `R G B name`.
        neck_iterations: How often MeanShifter's shift is applied, where no configuration says it.

    Raises:
        ValueError: If the file cannot be read safely, or is not the network it is taken for.
        OSError: If a file is missing, or `out` is there already.
    """
    from segbench.commands.convert import mmsegmentation, segmenter
    from segbench.commands.convert.classes import name_classes
    from segbench.commands.convert.reading import read_foreign
    from segbench.commands.convert.write import convert as converted
    from segbench.commands.convert.write import refuse_existing, write

    refuse_existing(out)
    content = read_foreign(checkpoint)
    describe = {"segmenter": segmenter.describe, "mmsegmentation": mmsegmentation.describe}[source]
    network = describe(content, checkpoint, config, neck_iterations)
    names, palette, known_from = name_classes(network, classes)
    result = converted(network, names, palette, checkpoint)
    write(result, out)

    model = result["hyper_parameters"]
    print(f"{network.title}; {network.num_classes} classes; crops of {_size(network.img_size)}")
    dropped = result["segbench"]["dropped"]
    taken = len(network.weights) - sum(map(len, dropped.values()))
    filled = len(result["state_dict"])
    print(f"  {taken} of {len(network.weights)} weights taken, which fill all {filled} of the model")
    for reason, keys in dropped.items():
        print(f"  dropped: {', '.join(keys)}: {reason}")
    behind = f" ({', '.join(network.left_behind)})" if network.left_behind else ""
    print(f"  not converted: the state of the training{behind}; training on starts with a new optimiser state")
    print(f"  names and colours of classes: {known_from}")
    window = (
        f"windows of {_size(model['window'])}, {_size(model['stride'])} apart"
        if model["window"]
        else "whole images"
    )
    resized = f", images scaled to fit {_size(model['resize'])}" if model["resize"] else ""
    print(f"  evaluation: {window}{resized}")
    for note in network.notes:
        print(f"  note: {note}")
    print(f"written: {out}; try `segbench segment --checkpoint {out} PHOTOGRAPHS --out FOLDER`")


def _size(size: tuple[int, int] | list[int]) -> str:
    return f"{size[0]}×{size[1]}"

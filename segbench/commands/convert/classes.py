"""Names and colours of classes, where a checkpoint of another code base does not carry them."""

from pathlib import Path

from segbench.commands.convert.network import Network
from segbench.data.ade20k import ADE20K_SPEC
from segbench.data.cityscapes_classes import CITYSCAPES_SPEC
from segbench.data.class_files import read_rows
from segbench.data.class_table import read_table
from segbench.data.spec import Color, default_palette

# In the order of Segmenter's segm/data/config/pascal_context.yml (https://github.com/rstrudel/segmenter), which
# is not MMSegmentation's: background and the 20 classes of VOC first. Its colours are the first 60 of ADE20K's.
_PASCAL_CONTEXT = """
background, aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, table, dog, horse, motorbike,
person, pottedplant, sheep, sofa, train, tvmonitor, bag, bed, bench, book, building, cabinet, ceiling, cloth,
computer, cup, door, fence, floor, flower, food, grass, ground, keyboard, light, mountain, mouse, curtain,
platform, sign, plate, road, rock, shelves, sidewalk, sky, snow, bedclothes, track, tree, truck, wall, water,
window, wood
"""

_KNOWN: dict[str, tuple[tuple[str, ...], tuple[Color, ...]]] = {
    "ade20k": (ADE20K_SPEC.classes, ADE20K_SPEC.palette),
    "cityscapes": (CITYSCAPES_SPEC.classes, CITYSCAPES_SPEC.palette),
    "pascal_context": (
        tuple(" ".join(n.split()) for n in _PASCAL_CONTEXT.split(",")),
        ADE20K_SPEC.palette[:60],
    ),
}


def name_classes(network: Network, file: Path | None) -> tuple[list[str], list[list[int]], str]:
    """Finds names and colours: in the user's file, in the checkpoint, by its dataset; else it numbers them.

    Args:
        network: What was read.
        file: Lines `name` or `R G B name`, one for each class in the order of training ids.

    Returns:
        `K` names, `K` RGB colours, and where they are from.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If they are not K, or one name occurs twice.
    """
    number = network.num_classes
    if file is not None:
        if not file.is_file():
            raise FileNotFoundError(f"--classes: file not found: {file}")
        table = read_table(read_rows(file.absolute().parent, file.name))
        names, colors = [entry.name for entry in table], [list(entry.color) for entry in table]
        if (
            len(names) != number
            or len(set(names)) != number
            or any(entry.file_id != index for index, entry in enumerate(table))
        ):
            raise ValueError(
                f"--classes: {file} must name {number} classes, each once, in the order of training ids from 0;"
                f" it has {len(names)} lines"
            )
        return names, colors, f"from {file}"
    if network.class_names is not None:
        if len(network.class_names) != number or len(set(network.class_names)) != number:
            raise ValueError(
                f"{number} classes are decoded, but the checkpoint names {len(network.class_names)}, or one"
                " twice; give them by --classes FILE"
            )
        colors = network.palette or [list(color) for color in default_palette(number)]
        if len(colors) != number:
            raise ValueError(
                f"{number} classes, but the checkpoint has {len(colors)} colours; give --classes FILE"
            )
        return network.class_names, colors, "from the checkpoint"
    if network.dataset in _KNOWN and len(_KNOWN[network.dataset][0]) == number:
        known, palette = _KNOWN[network.dataset]
        return list(known), [list(color) for color in palette], f"those of {network.dataset}"
    numbered = [f"class {index}" for index in range(number)]
    return (
        numbered,
        [list(color) for color in default_palette(number)],
        ("not known, so they are numbered; name them by --classes FILE, one per line"),
    )

"""Models as experiments describe them, built with random weights and without their data."""

from pathlib import Path
from typing import Any, NamedTuple

from jsonargparse import ArgumentError

from segbench.data.base import SegmentationDataModule
from segbench.data.scene import class_names, scene_palette
from segbench.encoders.base import skip_pretrained_weights
from segbench.parsing.parser import ExplainedParser
from segbench.tasks.base import Task
from segbench.tasks.semantic import SemanticTask
from segbench.utils.errors import readable
from segbench.utils.yaml_files import read_yaml


class Changes(NamedTuple):
    """What is set otherwise than in the experiment; None leaves it.

    Attributes:
        img_size: `(H, W)`.
        num_classes: `K`.
    """

    img_size: tuple[int, int] | None = None
    num_classes: int | None = None


class Model(NamedTuple):
    """A task, and what it is for.

    Attributes:
        task: On the CPU.
        img_size: `(H, W)` of training crops.
        num_classes: `K`.
    """

    task: SemanticTask
    img_size: tuple[int, int]
    num_classes: int


def find_experiments(folder: Path) -> dict[str, Path]:
    """Lists the experiments of a folder.

    Args:
        folder: Of YAMLs; overlays in folders below it are none.

    Returns:
        Files by name.

    Raises:
        ValueError: If there are none.
    """
    files = sorted((*folder.glob("*.yaml"), *folder.glob("*.yml")))
    if not files:
        raise ValueError(f"{folder} has no YAML of an experiment; name a folder that has, by --experiments DIR")
    return {file.stem: file for file in files}


def build(file: Path, changes: Changes) -> Model:
    """Builds a model as `segbench fit --config FILE` does, but with random weights.

    Evaluation takes an image of the training crop's size, whole.

    Args:
        file: YAML of an experiment, or the config.yaml of a run.
        changes: What is set otherwise.

    Returns:
        The model, from the seed 0.

    Raises:
        ValueError: If the file is not an experiment, or a part of it cannot be built.
    """
    import torch

    config = read_yaml(file)
    try:
        data, model = dict(config["data"]), dict(config["model"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{file} is not an experiment: it needs `model` and `data` ({type(error).__name__})"
        ) from None
    module = _instantiate(SegmentationDataModule, "data", data, file)
    num_classes = changes.num_classes or module.num_classes
    known = num_classes == module.num_classes
    img_size = changes.img_size or module.img_size
    given = dict(model.get("init_args") or {})
    model["init_args"] = {
        **given,
        **{key: None for key in ("window", "stride", "resize") if key in given},
        "img_size": list(img_size),
        "num_classes": num_classes,
        "class_names": module.class_names if known else class_names(num_classes),
        "palette": module.palette if known else [list(color) for color in scene_palette(num_classes)],
        "ignore_index": module.ignore_index,
    }
    torch.manual_seed(0)
    with skip_pretrained_weights():
        task = _instantiate(Task, "model", model, file)
    if not isinstance(task, SemanticTask):
        raise ValueError(f"{file}: {type(task).__name__} is not a SemanticTask")
    return Model(task, img_size, num_classes)


def _instantiate(contract: type, key: str, config: dict[str, Any], file: Path) -> Any:
    parser = ExplainedParser()
    parser.add_subclass_arguments(contract, key)
    try:
        return parser.instantiate(parser.parse_object({key: config}))[key]
    except (ArgumentError, ValueError, OSError) as error:
        raise ValueError(f"{file}: {key} cannot be built: {readable(error)}") from None

"""How MMSegmentation prepares an image for testing, as a resolved configuration says.

What is run are the steps of the data set (0.x) or of its loader (1.x). `test_pipeline` and `img_norm_cfg` are
names that configurations are written with: a file that redefines them alone changes nothing, as the review of
https://github.com/open-mmlab/mmdetection/pull/4250 explains. So they count only where the steps are not there.
"""

import math
from typing import Any, NamedTuple

from segbench.commands.convert.settings import Settings

_PLACES = ("data.test.pipeline", "test_dataloader.dataset.pipeline", "test_pipeline")  # 0.x, 1.x, either
_PUBLISHED = 127.5  # mean and deviation, of all channels
# They load, or they only hand on; of what is tested without augmentation, nothing is flipped.
_NOTHING_TO_DO = {
    "LoadImageFromFile",
    "LoadAnnotations",
    "RandomFlip",
    "ImageToTensor",
    "DefaultFormatBundle",
    "Collect",
    "PackSegInputs",
}


class Preparation(NamedTuple):
    """What happens to an image before the model sees it.

    Attributes:
        mean: Of RGB on the 0..255 scale.
        std: Likewise.
        resize: Limits of the long and the short side; None leaves the image as large as it is.
        notes: Lines for the report.
    """

    mean: list[float]
    std: list[float]
    resize: tuple[int, int] | None
    notes: list[str]


def read_preparation(settings: Settings, img_size: tuple[int, int]) -> Preparation:
    """Reads the steps that an image takes.

    Args:
        settings: The configuration, empty where there is none.
        img_size: Training crop, whose short side images are scaled to where nothing else is said.

    Returns:
        What they do.

    Raises:
        ValueError: If they do what segbench does not.
    """
    steps = _steps(settings)
    resize = None if steps else (4 * min(img_size), min(img_size))
    normalization, notes = [], []
    for step in steps:
        kind = step.get("type", str, "").rpartition(".")[2]  # some name the module, too
        if kind in {"MultiScaleFlipAug", "Resize"}:
            # Resize keeps the shape in 0.x unless told, and does not in 1.x, where its size is called scale.
            if not step.get("keep_ratio", bool, kind == "MultiScaleFlipAug" or not step.has("scale")):
                raise ValueError(
                    f"{step.origin}: images are resized without keeping their shape; segbench keeps it"
                )
            resize = step.pair("img_scale", step.pair("scale", resize))
        elif kind == "Normalize":
            normalization.append(step)
        elif kind not in _NOTHING_TO_DO:
            notes.append(f"{kind or 'a step'} of the test pipeline is not done here: scores may differ")
    for place in ("model.data_preprocessor", "img_norm_cfg"):  # 1.x, 0.x
        if settings.has(place):
            normalization.append(Settings(settings.get(place, dict), f"{settings.origin}: {place}"))
    said = next((one for one in normalization if one.has("mean") and one.has("std")), None)
    if said is None:
        if steps:
            raise ValueError(
                f"{settings.origin}: mean and std of pixels are not in the configuration; add img_norm_cfg ="
                " dict(mean=[…], std=[…]) to its file and give that by --config"
            )
        if settings.values:
            notes.append(
                f"mean and std of pixels are not told: {_PUBLISHED} is taken, as published models have"
            )
        return Preparation([_PUBLISHED] * 3, [_PUBLISHED] * 3, resize, notes)
    # Images are read as BGR there; a preprocessor of 1.x turns them only where it is told.
    for key, default in (
        ("to_rgb", True),
        ("bgr_to_rgb", not said.get("type", str, "").endswith("PreProcessor")),
    ):
        if not said.get(key, bool, default):
            raise ValueError(f"{said.origin}: {key} is False; known here is True")
    return Preparation(_statistic(said, "mean"), _statistic(said, "std"), resize, notes)


def _steps(settings: Settings) -> list[Settings]:
    """Lists the steps, those inside of others behind them."""
    for place in _PLACES:
        found = settings.get(place, object, None)
        if isinstance(found, (list, tuple)) and found:
            return _flat(found, f"{settings.origin}: {place}")
    return []


def _flat(steps: list[Any] | tuple[Any, ...], origin: str) -> list[Settings]:
    flat = []
    for step in steps:
        one = Settings(step if isinstance(step, dict) else {}, origin)
        flat.append(one)
        inner = one.get("transforms", object, None)
        if isinstance(inner, (list, tuple)):
            flat += _flat(inner, origin)
    return flat


def _statistic(settings: Settings, name: str) -> list[float]:
    value = settings.get(name, object)
    if (
        not isinstance(value, (list, tuple))
        or len(value) != 3
        or not all(type(v) in {int, float} and math.isfinite(v) for v in value)
        or (name == "std" and min(value) <= 0)
    ):
        raise ValueError(f"{settings.origin}: {name} of pixels is {value!r}, where three numbers are expected")
    return [float(channel) for channel in value]

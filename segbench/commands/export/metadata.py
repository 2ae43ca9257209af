"""What an exported graph says of itself: classes, colours, normalisation, windows."""

from typing import Any

import torch

from segbench import __version__
from segbench.commands.export.graph import Form, output_names
from segbench.encoders.base import Encoder
from segbench.tasks.semantic import SemanticTask

_OUTPUTS = {
    "labels": "(B, H, W) class indices: the argmax class of every pixel",
    "logits": "(B, K, h, w) at the decoder's own stride; upsample bilinearly (align_corners=False) to the size "
    "of the image, then take the argmax",
    "boundary": "(B, 1, h, w) boundary logits",
    "colors": "(B, 3, h, w) label colours in [0, 1]",
}


def facts(task: SemanticTask, form: Form) -> dict[str, Any]:
    """Gathers what a user of the file must know.

    Args:
        task: The model.
        form: Of the graph.

    Returns:
        Plain values by name.
    """
    mean, std = pixel_statistics(task.encoder)
    windows = task.views.windows
    return {
        "segbench_version": __version__,
        "class_names": task.class_names,
        "palette": task.palette,
        "ignore_index": task.ignore_index,
        "input": (
            "image: (B, 3, H, W) RGB photographs, uint8"
            if form.photograph
            else "image: (B, 3, H, W) RGB on the 0..255 scale, less pixel_mean, divided by pixel_std, float32; "
            "padded with zeros at the bottom and right to multiples of size_multiple"
        ),
        "outputs": {name: _OUTPUTS[name] for name in output_names(task, form)},
        "free": {"size": ["batch", "height", "width"], "batch": ["batch"], "nothing": []}[form.free],
        "image_size": None if form.free == "size" else list(form.img_size),
        "size_multiple": list(form.multiple),
        "pixel_mean": mean,
        "pixel_std": std,
        "window": windows.window,
        "stride": windows.stride,
        "resize": windows.resize,
    }


def pixel_statistics(encoder: Encoder) -> tuple[list[float], list[float]]:
    """Finds out how an encoder normalises, from what it makes of black, grey and white.

    Args:
        encoder: Any.

    Returns:
        Mean and standard deviation of R, G and B on the 0..255 scale.

    Raises:
        ValueError: If it does more than subtract and divide.
    """
    black, grey, white = (
        encoder.normalize(torch.full((1, 3, 1, 1), value, dtype=torch.float64))[0, :, 0, 0].double()
        for value in (0.0, 127.5, 255.0)
    )
    if not torch.allclose(grey, (black + white) / 2, atol=1e-5):
        raise ValueError(
            "the encoder's normalisation is more than a mean and a deviation; export with --photograph true"
        )
    std = 255 / (white - black)
    mean = -black * std
    return [round(value, 4) for value in mean.tolist()], [round(value, 4) for value in std.tolist()]

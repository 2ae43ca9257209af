"""Whether an exported file computes what the model computes: both see the same pictures, at three sizes.

The pictures are smooth with a little grain, as images are. On white noise, which no camera takes and no
model was trained on, sums of a deep network round ten times worse, in model and file alike: trained attention
U-Nets are 2e-4 from their own float64 there, and 2e-5 on images and on these pictures.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from segbench.commands.export.graph import Form
from segbench.tasks.semantic import SemanticTask

_PATCHES = (5, 7)  # of colour, that a picture has from top to bottom and from left to right
_GRAIN = 8.0  # standard deviation, of 255

Run = Callable[[Tensor], list[Tensor]]
"""Runs an exported file on its input `image`; returns its outputs in order."""


class Agreement(NamedTuple):
    """How one sample came out.

    Attributes:
        shape: Of the images, `(B, 3, H, W)`.
        difference: Largest absolute difference of an output. Of labels: by how much the model's own logit of
            the file's label falls short of the best, which is 0 where the labels are the same.
        equal: Share of labels that are the same; 1 where there are none to compare.
    """

    shape: tuple[int, ...]
    difference: float
    equal: float


class Disagreement(ValueError):  # noqa: N818 (its message is shown to users; the name is for us)
    """The file computes something else than the model."""


def samples(form: Form) -> list[Tensor]:
    """Draws pictures of up to three sizes, square and not, that patches do not fill.

    Args:
        form: Of the graph, which says what may vary.

    Returns:
        uint8 batches `(B, 3, H, W)`.
    """
    (rows, columns), (height, width) = form.multiple, form.img_size
    shapes = {
        "size": [(1, height, width), (2, height + rows, width + 3 * columns - 3), (3, height + 5, width)],
        "batch": [(1, height, width), (3, height, width)],
        "nothing": [(1, height, width)],
    }[form.free]
    generator = torch.Generator().manual_seed(0)
    return [_pictures(batch, (tall, wide), generator) for batch, tall, wide in shapes]


@torch.no_grad()
def compare(task: SemanticTask, form: Form, run: Run, tolerance: float) -> list[Agreement]:
    """Runs model and file on the same images.

    Args:
        task: The model, in evaluation mode on the CPU.
        form: Of the graph.
        run: The file.
        tolerance: Largest difference that passes.

    Returns:
        One agreement for each sample.

    Raises:
        Disagreement: If outputs differ by more, or are not finite, or have other shapes.
    """
    found = []
    for image in samples(form):
        one = _labels(task, image, run) if form.photograph else _outputs(task, image, run)
        if not one.difference <= tolerance:  # nan does not pass
            raise Disagreement(
                f"on {_name(one.shape)} the file differs from the model by {one.difference:.1e}, more than "
                f"{tolerance:g}; --tolerance allows more"
            )
        found.append(one)
    return found


def lines(found: list[Agreement], form: Form) -> list[str]:
    """Puts agreements in words.

    Args:
        found: From `compare`.
        form: Of the graph.

    Returns:
        One line for each sample.
    """
    told = []
    for one in found:
        if not form.photograph:
            text = f"within {one.difference:.1e} of the model"
        elif one.equal == 1:
            text = "all labels are the model's"
        else:
            text = (
                f"{100 * one.equal:.4f} % of the labels are the model's, "
                f"whose logits tell the others apart by {one.difference:.1e} at most"
            )
        told.append(f"{_name(one.shape)}: {text}")
    return told


def _pictures(batch: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    colors = 255 * torch.rand(batch, 3, *_PATCHES, generator=generator)
    smooth = F.interpolate(colors, size, mode="bicubic", align_corners=False)
    grain = _GRAIN * torch.randn(batch, 3, *size, generator=generator)
    return (smooth + grain).round().clamp(0, 255).to(torch.uint8)


def _outputs(task: SemanticTask, image: Tensor, run: Run) -> Agreement:
    prediction, _ = task(image)
    expected = [value for value in prediction if value is not None]
    given = run(task.encoder.normalize(image).float())
    if [value.shape for value in given] != [value.shape for value in expected]:
        shapes = [tuple(value.shape) for value in given], [tuple(value.shape) for value in expected]
        raise Disagreement(f"the file's outputs have shapes {shapes[0]}, the model's {shapes[1]}")
    differences = [(one - other).abs().max() for one, other in zip(given, expected, strict=True)]
    return Agreement(tuple(image.shape), torch.stack(differences).max().item(), 1.0)


def _labels(task: SemanticTask, image: Tensor, run: Run) -> Agreement:
    logits = task.logits(image)  # (B, K, H, W)
    (labels,) = run(image)
    if labels.shape != logits[:, 0].shape:
        raise Disagreement(f"the file's labels have shape {tuple(labels.shape)} for photographs {image.shape}")
    best, chosen = logits.amax(1), logits.gather(1, labels.long().unsqueeze(1)).squeeze(1)
    equal = (labels == logits.argmax(1)).double().mean().item()
    return Agreement(tuple(image.shape), (best - chosen).max().item(), equal)


def _name(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))

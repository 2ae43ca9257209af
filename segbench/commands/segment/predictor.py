"""Labels images of one size with a trained model, and says what went wrong with which."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segbench.inference.pixel_probabilities import PixelProbabilities
from segbench.tasks.base import Task


class Labelled(NamedTuple):
    """What is found in one image.

    Attributes:
        labels: `(H, W)` classes.
        pixels: How many pixels each class has.
        probabilities: `(K, H, W)` float16, where asked for.
        boundary: `(H, W)` uint8, 255 for a certain boundary, where asked for.
    """

    labels: NDArray[np.integer]
    pixels: list[int]
    probabilities: NDArray[np.float16] | None = None
    boundary: NDArray[np.uint8] | None = None


class Predictor:
    """A model, and what is wanted of it."""

    def __init__(self, task: Task, device: str, probabilities: bool = False, boundary: bool = False) -> None:
        """Takes the model.

        Args:
            task: On that device, in evaluation mode.
            device: As torch names it.
            probabilities: Whether they are wanted: 6 bytes for each class and pixel of one image.
            boundary: Whether it is wanted; costs as much.
        """
        self.task = task
        self.device = device
        self.probabilities = probabilities
        self.boundary = boundary
        self._works = False  # for some image at least

    def __call__(self, images: Sequence[NDArray[np.uint8]]) -> list[Labelled | ValueError]:
        """Labels images together; if that fails, each by itself.

        Args:
            images: `(H, W, 3)` RGB of one size.

        Returns:
            For each image what was found, or why nothing was.

        Raises:
            ValueError: If the model can label nothing at all as it is set up.
        """
        try:
            found = list(self._label(images))
        except (ValueError, MemoryError, RuntimeError) as error:
            problem = _explained(error, images[0].shape)  # without the traceback, which holds tensors
        else:
            self._works = True
            return [*found]
        if self.device == "cuda":
            torch.cuda.empty_cache()
        if len(images) > 1:
            return [one for image in images for one in self([image])]
        if not self._works:
            self._try_out()
        return [problem]

    def _try_out(self) -> None:
        """Labels a blank image that any model takes; what fails here is not the fault of an image."""
        window = self.task.views.windows.window
        size = (256, 256) if window is None else (window, window) if isinstance(window, int) else window
        list(self._label([np.zeros((*size, 3), np.uint8)]))
        self._works = True

    @torch.inference_mode()
    def _label(self, images: Sequence[NDArray[np.uint8]]) -> list[Labelled]:
        batch = torch.from_numpy(np.stack(images)).to(self.device).permute(0, 3, 1, 2)
        if self.probabilities or self.boundary:
            return [self._from_probabilities(found) for found in self.task.predict_proba(batch)]
        return [self._counted(labels) for labels in self.task.segment(batch).cpu()]

    def _from_probabilities(self, found: PixelProbabilities) -> Labelled:
        labelled = self._counted(self.task.decide(found).cpu())
        boundary = found.boundary.mul(255).round().to(torch.uint8).cpu().numpy() if self.boundary else None
        probabilities = found.probabilities.half().cpu().numpy() if self.probabilities else None
        return labelled._replace(probabilities=probabilities, boundary=boundary)

    def _counted(self, labels: Tensor) -> Labelled:
        pixels = torch.bincount(labels.flatten(), minlength=self.task.num_classes)
        return Labelled(labels.numpy(), pixels.tolist())


def _explained(error: Exception, shape: Sequence[int]) -> ValueError:
    """Words a failure; errors of other kinds are raised as they are."""
    if isinstance(error, ValueError):
        return error
    message = str(error).lower()
    if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "memory" not in message:
        raise error
    return ValueError(
        f"too little memory for {shape[0]} × {shape[1]} pixels; give a --window, or leave out --probabilities"
    )

"""The contract of a task: what commands, callbacks and users may ask of any trained model."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import lightning as L
from torch import Tensor, nn

from segbench.inference.confidence import Confidence
from segbench.inference.pixel_probabilities import PixelProbabilities
from segbench.inference.test_time_augmentation import Views
from segbench.metrics.split import SplitScores
from segbench.postprocess.base import PostProcessor


@runtime_checkable
class Guard(Protocol):
    """A callback that looks at every checkpoint before it is written, and raises where it must not be."""

    def guard(self, trainer: L.Trainer, checkpoint: dict[str, Any]) -> None:
        """Looks; all processes do."""


class Task(L.LightningModule, ABC):
    """A LightningModule that segments images.

    Attributes:
        num_classes: `K`.
        ignore_index: Label of pixels that take no part.
        class_names: `K` names.
        palette: `K` RGB colours.
        counts: What evaluation counted, by split (`val`, `test`).
        cache_features: Views of each training image that training takes from the feature cache; 0 for none.
        views: How often, and in which windows, an image is seen in evaluation.
        postprocess: What makes labels of probabilities in evaluation; None takes the argmax.
    """

    num_classes: int
    ignore_index: int
    class_names: list[str]
    palette: list[list[int]]
    counts: dict[str, SplitScores]
    cache_features: int = 0
    views: Views
    postprocess: PostProcessor | None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Has guards look at what is about to be saved: last of all, and where callbacks are not asked as well.

        Args:
            checkpoint: As it will be written; with `save_weights_only` of weights alone.
        """
        callbacks = self.trainer.callbacks  # type: ignore[attr-defined]  # set where mypy does not look
        for callback in callbacks:
            if isinstance(callback, Guard):
                callback.guard(self.trainer, checkpoint)

    @abstractmethod
    def parts(self) -> dict[str, nn.Module]:
        """Names the rooms this model is made of, for parameter counts and cost tables.

        Returns:
            Modules by `encoder`, `necks`, `decoder`.
        """

    def predict_in_order(self, order: list[int] | None, palette: list[list[int]]) -> None:
        """Predicts with the weights of a checkpoint whose classes are in another order than the task's.

        Args:
            order: Index in the checkpoint of each class of this task; None where they are the same.
            palette: Colours of the classes in the checkpoint.

        Raises:
            ValueError: If this task cannot.
        """
        if order is not None:
            raise ValueError(
                f"{type(self).__name__} cannot reorder its classes: list the data's in the checkpoint's order"
            )

    def class_axes(self) -> dict[str, int | None]:
        """Finds the weights that depend on the classes, and where in them the classes are.

        Returns:
            Axis with one entry for each class, by name as in the state dict; None where there is no such axis.
        """
        return {f"decoder.{name}": None for name in self.parts()["decoder"].state_dict()}

    @abstractmethod
    def logits(self, image: Tensor) -> Tensor:
        """Runs the whole image at once.

        Args:
            image: `(B, 3, H, W)` RGB, uint8, or float on the same 0..255 scale; any size.

        Returns:
            `(B, K, H, W)`, at full size: large.

        Raises:
            ValueError: If `image` is not a batch of RGB images, or the encoder takes another size only.

        Example:
            >>> images = torch.zeros(2, 3, 40, 56, dtype=torch.uint8)
            >>> task.logits(images).shape  # a task of three classes
            torch.Size([2, 3, 40, 56])
        """

    @abstractmethod
    def segment(
        self, image: Tensor, window: tuple[int, int] | None = None, stride: tuple[int, int] | None = None
    ) -> Tensor:
        """Labels every pixel as in evaluation.

        Args:
            image: `(B, 3, H, W)` RGB, uint8, or float on the same 0..255 scale; any size.
            window: `(height, width)` of sliding windows instead of the task's own.
            stride: Step between windows instead of the task's own.

        Returns:
            Labels `(B, H, W)` at the image's own resolution; uint8 for up to 256 classes.

        Raises:
            ValueError: If `image` is not a batch of RGB images, or stride and window do not fit each other.

        Example:
            >>> images = torch.zeros(2, 3, 40, 56, dtype=torch.uint8)
            >>> labels = task.segment(images)
            >>> labels.shape, labels.dtype
            (torch.Size([2, 40, 56]), torch.uint8)
            >>> task.segment(images, window=(32, 32), stride=(16, 16)).shape
            torch.Size([2, 40, 56])
        """

    @abstractmethod
    def confidence(self, image: Tensor, top: int = 1, out_size: tuple[int, int] | None = None) -> Confidence:
        """Tells how sure the model is of every pixel, in evaluation.

        Args:
            image: `(B, 3, H, W)` RGB, uint8, or float on the same 0..255 scale; any size.
            top: How many of the most probable classes to keep.
            out_size: `(height, width)` of the maps instead of the image's own.

        Returns:
            Most probable classes, their probabilities, and the entropy.
        """

    @abstractmethod
    def predict_proba(
        self, image: Tensor, window: tuple[int, int] | None = None, stride: tuple[int, int] | None = None
    ) -> Iterator[PixelProbabilities]:
        """Computes full-size probabilities as in evaluation, which is large.

        Args:
            image: As in `segment`.
            window: As in `segment`.
            stride: As in `segment`.

        Yields:
            Class and boundary probabilities of one image after the other, before any post-processing.
        """

    @abstractmethod
    def decide(self, found: PixelProbabilities) -> Tensor:
        """Labels one image by its probabilities, post-processing included.

        Args:
            found: Of `predict_proba`.

        Returns:
            Labels `(H, W)`: those of `segment`, save where two classes are as likely but for rounding.
        """

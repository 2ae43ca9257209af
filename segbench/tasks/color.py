"""Segmentation as painting: any decoder regresses label colours, and the nearest palette colour is the class.

Source: the report "Vision Transformers for Segmentation" (no published paper), which stops at the colours. Here
classes follow from them: the nearest palette colour `p` maximises `2 c·p − |p|²`, an affine function of the
colour `c`. To upsample these scores, or to average them over windows, is to upsample or average the colours.
So they serve as logits for everything behind the decoder: windows, scores, pictures, `segbench segment`.
"""

from collections.abc import Callable

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from segbench.decoders.base import Decoder
from segbench.losses.base import Loss
from segbench.losses.color import MeanAbsoluteColor
from segbench.tasks.semantic import SemanticTask
from segbench.types import FeatureInfo, Features, Prediction


def hard_sigmoid(x: Tensor) -> Tensor:
    """Computes `clip(0.2 x + 0.5, 0, 1)`, as Keras 2 has it; torch's own has slope 1/6.

    Where it clips, no gradient comes back: a majority class of black or white holds the others up for long.
    """
    return (0.2 * x + 0.5).clamp(0, 1)


def color_logits(colors: Tensor, palette: Tensor) -> Tensor:
    """Scores classes so that the argmax is the class of the nearest colour.

    Args:
        colors: `c`, `(B, 3, h, w)`.
        palette: `p`, `(K, 3)`, on the same scale.

    Returns:
        `|c|² − |c − p|² = 2 c·p − |p|²`, `(B, K, h, w)`.
    """
    scores = -palette.square().sum(1)[:, None, None]  # (K, 1, 1)
    # No matrix product: under autocast and TF32 it would be too coarse to tell similar colours apart.
    for channel in range(3):
        scores = torch.addcmul(scores, colors[:, channel, None], palette[:, channel, None, None], value=2.0)
    return scores


class Painter(Decoder):
    """A decoder of three channels, read as colours."""

    palette: Tensor

    def __init__(self, decoder: Decoder, palette: Tensor) -> None:
        """Wraps a decoder.

        Args:
            decoder: Built for three classes.
            palette: `(K, 3)` in 0..1.
        """
        super().__init__()
        self.decoder = decoder
        # Not persistent: the palette is configuration, and a checkpoint's hyper-parameters have it.
        self.register_buffer("palette", palette, persistent=False)

    def forward(self, features: Features) -> Prediction:
        """Returns a prediction whose `colors` are set."""
        prediction = self.decoder(features)
        colors = hard_sigmoid(prediction.logits.float())  # (B, 3, h, w)
        return Prediction(color_logits(colors, self.palette), prediction.boundary, colors)


class ColorTask(SemanticTask):
    """One colour for every pixel, and by it one class. The default loss is `MeanAbsoluteColor`.

    Any decoder will do, but one whose last layer normalises over the classes (mask transformer, attention
    U-Net) leaves three channels a single degree of freedom: it cannot paint every palette.
    """

    def _build_decoder(
        self, build: Callable[[FeatureInfo, int], Decoder], info: FeatureInfo, num_classes: int
    ) -> Decoder:
        """Builds the decoder for three channels, whatever the number of classes."""
        self._warn_of_equal_colors()
        return Painter(build(info, 3), torch.tensor(self.palette) / 255)

    def predict_in_order(self, order: list[int] | None, palette: list[list[int]]) -> None:
        """Reads painted colours by the palette that the checkpoint was trained to paint in."""
        painter = self.decoder
        colors = palette if order is None else [palette[index] for index in order]
        if isinstance(painter, Painter):
            painter.palette = torch.tensor(colors, device=self.device) / 255

    def class_axes(self) -> dict[str, int | None]:
        """Names all weights of the decoder: each of them paints all classes."""
        return {f"decoder.{name}": None for name in self.decoder.state_dict()}

    def _build_losses(self, builds: list[Callable[[int, int], Loss]] | None) -> list[Loss]:
        """Builds the losses, and hands the palette to those that need it.

        Raises:
            ValueError: If no loss compares colours.
        """
        losses = super()._build_losses([MeanAbsoluteColor] if builds is None else builds)
        of_color = [loss for loss in losses if isinstance(loss, MeanAbsoluteColor)]
        if not of_color:  # as when an experiment's class_path alone was changed
            raise ValueError(
                "losses: none of them compares colours, so ColorTask would train a classifier; "
                "set --model.init_args.losses null, or list segbench.losses.color.MeanAbsoluteColor"
            )
        for loss in of_color:
            loss.palette = torch.tensor(self.palette) / 255
        return losses

    def _warn_of_equal_colors(self) -> None:
        names: dict[tuple[int, ...], list[str]] = {}
        for color, name in zip(self.palette, self.class_names, strict=True):
            names.setdefault(tuple(color), []).append(name)
        if equal := "; ".join(", ".join(shared) for shared in names.values() if len(shared) > 1):
            rank_zero_warn(
                f"palette: these classes share a colour, and pixels of it get the first of them: {equal}; "
                "give them colours of their own, or train with SemanticTask"
            )

"""Semantic segmentation: encoder → necks → decoder → losses and scores, and nothing but the wiring."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from segbench.decoders.base import Decoder
from segbench.encoders.base import Encoder, skip_pretrained_weights
from segbench.inference import sliding_window
from segbench.inference import test_time_augmentation as augment
from segbench.inference.confidence import Confidence, confidence
from segbench.inference.encoded_once import EncodedOnce
from segbench.inference.input_check import check_image
from segbench.inference.pixel_probabilities import PixelProbabilities, predict_proba
from segbench.inference.sliding_window import SmallImages, WindowPrediction, Windows
from segbench.inference.test_time_augmentation import Views
from segbench.kernels.upsample_argmax import label_dtype
from segbench.losses.base import Loss
from segbench.losses.cross_entropy import CrossEntropy
from segbench.metrics.split import SplitScores, further_split
from segbench.necks.base import IterativeNeck, Neck
from segbench.optim.fused import prefer_fused
from segbench.optim.groups import parameter_groups, scale_learning_rates
from segbench.optim.schedules import Poly, Schedule
from segbench.postprocess.base import PostProcessor
from segbench.tasks.base import Task
from segbench.tasks.classes import check_data, growing_axes
from segbench.tasks.unused_parameters import unused_parameters
from segbench.types import Batch, FeatureInfo, Features, Prediction


class SemanticTask(Task):
    """One class for every pixel."""

    class_order: Tensor | None

    def __init__(
        self,
        encoder: Callable[[tuple[int, int]], Encoder],
        decoder: Callable[[FeatureInfo, int], Decoder],
        img_size: tuple[int, int],
        num_classes: int,
        class_names: list[str],
        palette: list[list[int]],
        ignore_index: int = 255,
        from_scratch: bool = False,
        necks: list[Callable[[FeatureInfo], Neck]] | None = None,
        losses: list[Callable[[int, int], Loss]] | None = None,
        optimizer: Callable[[Iterable[Any]], Optimizer] = lambda params: SGD(params, lr=1e-3, momentum=0.9),
        schedule: Callable[[Optimizer, int], Schedule] = Poly,
        encoder_lr_scale: float = 1.0,
        layer_decay: float = 1.0,
        neck_iterations: int | list[int] | None = None,
        window: int | tuple[int, int] | None = None,
        stride: int | tuple[int, int] | None = None,
        resize: tuple[int, int] | None = None,
        scales: list[float] | None = None,
        flip: bool = False,
        windows_per_batch: int = 4,
        small_images: SmallImages = "enlarge",
        upsample_to: Literal["padded", "image"] = "padded",
        postprocess: Callable[[], PostProcessor] | None = None,
        compile: bool = False,  # noqa: A002 (the name torch gives it)
        cache_features: int = 0,
    ) -> None:
        """Builds the model. What the data module knows (sizes, classes, colours) is filled in by the CLI.

        Args:
            encoder: Image → features.
            decoder: Features → logits.
            img_size: `(height, width)` of training crops. From the data module.
            num_classes: `K`. From the data module.
            class_names: `K` names. From the data module.
            palette: `K` RGB colours. From the data module.
            ignore_index: Label of pixels that take no part. From the data module.
            from_scratch: Start from random weights even where the encoder is configured with pretrained ones.
            necks: Features → features, in this order.
            losses: Added up with their weights; the default is one plain cross-entropy.
            optimizer: Any torch optimiser; its learning rate is that of necks and decoder.
            schedule: Learning rate over optimiser steps.
            encoder_lr_scale: The encoder's learning rate as a multiple of the optimiser's.
            layer_decay: Further factor for each encoder layer below the deepest; 1 for none.
            neck_iterations: Iterations of every iterative neck from now on, whatever it was built with; may
                differ between training and test (the thesis's L′_ms). Of a list the first holds; `validate` and
                `test` score the others as well, each under the name of its own (`test_iterations_3/miou`),
                while the encoder sees every image once.
            window: Side, or height and width, of sliding windows in evaluation; null takes each image whole, or
                windows of `img_size` where the encoder knows no other size.
            stride: Step between windows; null puts them side by side.
            resize: `(long, short)` limits to which an image is scaled, keeping its shape, before evaluation;
                labels come out at its own resolution. ADE20K is scored with (2048, 512).
            scales: Factors of that size at which an image is seen in evaluation, the probabilities averaged;
                null for 1 alone. Segmenter's multi-scale scores take 0.5, 0.75, 1, 1.25, 1.5, 1.75 and `flip`.
            flip: In evaluation, see each scale mirrored as well.
            windows_per_batch: Windows that go through the model together.
            small_images: What becomes in evaluation of an image with a side below the window's: "enlarge"
                resizes it, as Segmenter does, "whole" cuts the window to it, as MMSegmentation does.
            upsample_to: Where an image has no whole number of patches: "padded" upsamples to the padded size
                and crops, as Segmenter does, "image" upsamples to the image's own, as MMSegmentation does.
            postprocess: Probabilities and boundaries → labels in evaluation, such as
                `segbench.postprocess.regions.Regions`; null takes the argmax of every pixel. The
                boundary is the decoder's, or without a head for it, the edges of the argmax classes.
            compile: Compile encoder, necks and decoder with torch.compile. Each new image size costs a
                compilation, and after eight the rest runs uncompiled: set `window` where sizes vary.
            cache_features: Let a frozen encoder encode so many views of each training image once, and train on
                their features from then on; 0 encodes a new view at each step. Changes the protocol, as
                segbench.callbacks.feature_cache.callback says.

        Raises:
            ValueError: If the parts do not fit each other.
        """
        super().__init__()
        self.save_hyperparameters()
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.class_names = list(class_names)
        self.palette = [list(color) for color in palette]
        if len(self.class_names) != num_classes or len(self.palette) != num_classes:
            raise ValueError(
                f"{num_classes} classes, but {len(self.class_names)} class names "
                f"and {len(self.palette)} colours"
            )
        for name, color in zip(self.class_names, self.palette, strict=True):
            if len(color) != 3 or not all(0 <= value <= 255 for value in color):
                raise ValueError(f"palette: {name} has the colour {color}; give red, green and blue in 0..255")

        with skip_pretrained_weights() if from_scratch else nullcontext():
            self.encoder = encoder((img_size[0], img_size[1]))
        if cache_features < 0 or (cache_features and not self.encoder.frozen):
            raise ValueError(
                f"cache_features: {cache_features} views of each image are to be encoded once, which takes a"
                " number of 0 or more and an encoder that stays as it is: set encoder.init_args.frozen: true"
            )
        self.cache_features = cache_features
        info = self.encoder.info
        self.necks = nn.Sequential()
        for build in necks or []:
            neck = build(info)
            self.necks.append(neck)
            info = neck.info
        self._decoder_factory, self._decoder_info = decoder, info
        self.decoder = self._build_decoder(decoder, info, num_classes)
        self.register_buffer("class_order", None, persistent=False)
        built = self._build_losses(losses)
        for loss in built:
            if not 0 <= loss.weight < math.inf:
                raise ValueError(f"losses: weight of {type(loss).__name__} is {loss.weight}; give 0 or more")
        self.losses = nn.ModuleList(built)
        if not len(self.losses):
            raise ValueError("losses: at least one is needed; null stands for the default of the task")
        names = [loss.name for loss in built]
        self._loss_names = [  # two of one name are told apart by a number
            name if names.count(name) == 1 else f"{name}_{names[:index].count(name) + 1}"
            for index, name in enumerate(names)
        ]
        self._iterations = _override_iterations(self.necks, neck_iterations)

        if window is None and self.encoder.fixed_size:
            window = (img_size[0], img_size[1])
        window, stride = ((side, side) if isinstance(side, int) else side for side in (window, stride))
        windows = Windows(
            window, stride, resize, windows_per_batch=windows_per_batch, small_images=small_images
        )
        sliding_window.check_windows(windows)
        self.views = Views([1.0] if scales is None else scales, flip, windows)
        augment.check_scales(self.views.scales)
        self.upsample_to = upsample_to
        self.postprocess = None if postprocess is None else postprocess()
        if self.postprocess is not None:
            self.postprocess.check(num_classes)
        self._optimizer, self._schedule = optimizer, schedule
        self._encoder_lr_scale, self._layer_decay = encoder_lr_scale, layer_decay
        self._compile = compile
        self.val_counts = SplitScores(num_classes, ignore_index)
        self.test_counts = SplitScores(num_classes, ignore_index)
        self.counts = {"val": self.val_counts, "test": self.test_counts}
        self._encoded: EncodedOnce | None = None
        self._unreached: list[Tensor] | None = None  # weights that no loss depends on, found by the first step
        # Further counts of iterations are scored as splits of their own.
        self.iteration_counts = nn.ModuleDict()
        for split in ("val", "test"):
            for iterations in self._iterations[1:]:
                further = SplitScores(num_classes, ignore_index)
                self.iteration_counts[further_split(split, iterations)] = further
                self.counts[further_split(split, iterations)] = further

    def _build_decoder(
        self, build: Callable[[FeatureInfo, int], Decoder], info: FeatureInfo, num_classes: int
    ) -> Decoder:
        return build(info, num_classes)

    def _build_losses(self, builds: list[Callable[[int, int], Loss]] | None) -> list[Loss]:
        return [
            build(self.num_classes, self.ignore_index)
            for build in ([CrossEntropy] if builds is None else builds)
        ]

    def parts(self) -> dict[str, nn.Module]:
        """Returns encoder, necks and decoder by name."""
        return {"encoder": self.encoder, "necks": self.necks, "decoder": self.decoder}

    def predict_in_order(self, order: list[int] | None, palette: list[list[int]]) -> None:
        """Reorders the decoder's logits, which is exact for any decoder."""
        self.class_order = None if order is None else torch.tensor(order, device=self.device)

    def class_axes(self) -> dict[str, int | None]:
        """Compares the decoder with one of one class more."""
        with torch.random.fork_rng(devices=[]):
            larger = self._build_decoder(self._decoder_factory, self._decoder_info, self.num_classes + 1)
        return growing_axes("decoder.", self.decoder, larger, self.num_classes)

    def forward(self, image: Tensor) -> tuple[Prediction, tuple[int, int]]:
        """Predicts at the decoder's stride.

        Args:
            image: `(B, 3, H, W)` RGB on the 0..255 scale.

        Returns:
            The prediction, and the size to which its logits are upsampled: the padded one, or the image's
            own where `upsample_to` says so.

        Raises:
            ValueError: If the decoder breaks its contract.
        """
        features = self.encoder(image) if self._encoded is None else self._encoded(image)
        return self._predict(features), self._upsampled_size(features, (image.shape[-2], image.shape[-1]))

    def _upsampled_size(self, features: Features, size: tuple[int, int]) -> tuple[int, int]:
        return size if self.upsample_to == "image" else (features.image.shape[-2], features.image.shape[-1])

    def _predict(self, features: Features) -> Prediction:
        features = self.necks(features)
        prediction = self.decoder(features)
        if not isinstance(prediction, Prediction):
            raise ValueError(
                f"decoder: {type(self.decoder).__name__} returns a {type(prediction).__name__}; return "
                "segbench.types.Prediction(logits) (`segbench check-decoder` tests the rest of the contract)"
            )
        if self.class_order is not None:
            prediction = prediction._replace(logits=prediction.logits.index_select(1, self.class_order))
        return prediction

    def logits(self, image: Tensor) -> Tensor:
        """Returns logits `(B, K, H, W)` of whole images, without windows."""
        return sliding_window.logits(self._pixels(image), self._window_prediction)

    def segment(
        self, image: Tensor, window: tuple[int, int] | None = None, stride: tuple[int, int] | None = None
    ) -> Tensor:
        """Returns predicted labels `(B, H, W)`, computed as in evaluation."""
        image = self._pixels(image)
        if self.postprocess is not None:
            return torch.stack([self.decide(found) for found in self.predict_proba(image, window, stride)])
        return augment.segment(image, self._window_prediction, self._views(window, stride))

    def confidence(self, image: Tensor, top: int = 1, out_size: tuple[int, int] | None = None) -> Confidence:
        """Returns the `top` classes of each pixel with their probabilities, and the entropy."""
        views = self.views._replace(windows=self.views.windows._replace(out_size=out_size))
        return confidence(self._pixels(image), self._window_prediction, views, top=top)

    def predict_proba(
        self, image: Tensor, window: tuple[int, int] | None = None, stride: tuple[int, int] | None = None
    ) -> Iterator[PixelProbabilities]:
        """Yields the class probabilities of each image, computed as in evaluation."""
        views = self._views(window, stride)
        return predict_proba(self._pixels(image), self._window_prediction_and_boundary, self.num_classes, views)

    def decide(self, found: PixelProbabilities) -> Tensor:
        """Returns labels `(H, W)` of one image: the argmax, or the result of the post-processing."""
        probabilities, boundary = found
        if self.postprocess is None:
            return probabilities.argmax(0).to(label_dtype(self.num_classes))
        # On the CPU, where post-processors work.
        labels = torch.from_numpy(self.postprocess(probabilities.cpu().numpy(), boundary.cpu().numpy()))
        return labels.to(probabilities.device, label_dtype(self.num_classes))

    def _pixels(self, image: Tensor) -> Tensor:
        """Checks what a caller gives, and casts floats to the type of the weights."""
        image = check_image(image)
        return image.to(next(self.parameters()).dtype) if image.is_floating_point() else image

    def _views(self, window: tuple[int, int] | None, stride: tuple[int, int] | None) -> Views:
        """Puts other windows in place of the configured ones, where given."""
        windows = self.views.windows
        if window is None and stride is None:
            return self.views
        return self.views._replace(windows=windows._replace(window=window or windows.window, stride=stride))

    def _window_prediction_and_boundary(self, image: Tensor) -> WindowPrediction:
        prediction, size = self(image)
        if prediction.boundary is None:
            return WindowPrediction(prediction.logits, size)
        return WindowPrediction(torch.cat([prediction.logits, prediction.boundary], dim=1), size)

    def _window_prediction(self, image: Tensor) -> WindowPrediction:
        prediction, size = self(image)
        return WindowPrediction(prediction.logits, size)

    def setup(self, stage: str) -> None:
        """Checks that the data are those of this model, and compiles, where asked."""
        check_data(self, getattr(self.trainer, "datamodule", None))
        if self._compile:
            self.compile_parts()

    def compile_parts(self) -> None:
        """Compiles encoder, necks and decoder at their next call; keys of the state dict stay as they are."""
        for module in (self.encoder, *self.necks, self.decoder):
            module.compile()

    def on_train_start(self) -> None:
        """Lets the configuration win over what a checkpoint restored into the optimiser.

        Momentum and decay, that is; the learning rate is the schedule's.
        """
        self._unreached = None  # which weights train may have changed
        (optimizer,) = self.trainer.optimizers
        for group, configured in zip(optimizer.param_groups, self._configured, strict=True):
            group.update({key: value for key, value in configured.items() if key != "lr"})

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Adds up the weighted losses.

        Returns:
            `loss`, and for callbacks its detached `terms` by name, the detached `prediction`, and the `label`,
            padded like the image unless logits are upsampled to its own size.
        """
        features = self._features(batch)
        prediction = self._predict(features)
        height, width = self._upsampled_size(features, (batch.label.shape[-2], batch.label.shape[-1]))
        missing = (0, width - batch.label.shape[-1], 0, height - batch.label.shape[-2])
        label = F.pad(batch.label, missing, value=self.ignore_index)  # as large as the logits will be
        total = torch.zeros((), device=label.device)
        terms = {}
        for name, loss in zip(self._loss_names, self.losses, strict=True):
            value = loss(prediction, label)
            terms[name] = value.detach()
            self.log(f"train/{name}", terms[name])
            total = total + loss.weight * value
        if self._unreached is None and total.requires_grad:
            self._unreached = unused_parameters(total, self.parameters())
        for weight in self._unreached or []:
            # Nothing of it, but in the graph: DDP waits for a gradient of each weight, also of a head that no
            # loss looks at, and of a neck that iterates no time.
            total = total + weight.flatten()[:0].sum()
        self.log("train/loss", total.detach(), prog_bar=True)
        return {"loss": total, "terms": terms, "prediction": _detached(prediction), "label": label}

    def _features(self, batch: Batch) -> Features:
        """Encodes a training batch, or takes what the frozen encoder made of it once."""
        if not self.cache_features:
            encoded: Features = self.encoder(batch.image)
            return encoded
        if not batch.maps:
            raise ValueError(
                "cache_features: the batch comes without features; give the trainer the callback"
                " segbench.callbacks.feature_cache.callback.FeatureCache, as `segbench fit` does"
            )
        image = self.encoder.normalize(batch.image)
        return Features(image, tuple(level.to(image.dtype) for level in batch.maps))

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Scores a batch and returns its labels `(B, H, W)`."""
        return self._evaluate("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Scores a batch and returns its labels `(B, H, W)`."""
        return self._evaluate("test", batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns labels `(B, H, W)`."""
        return self.segment(batch.image)

    def _evaluate(self, split: str, batch: Batch) -> Tensor:
        further = self._further_iterations()
        if not further:
            labels = self.segment(batch.image)
            self.counts[split].update(labels, batch.label, batch.name)
            return labels
        self._encoded = encoded = EncodedOnce(self.encoder)
        try:
            labels = self.segment(batch.image)
            self.counts[split].update(labels, batch.label, batch.name)
            for iterations in further:
                encoded.again()
                _set_iterations(self.necks, iterations)
                counts = self.counts[further_split(split, iterations)]
                counts.update(self.segment(batch.image), batch.label, batch.name)
        finally:
            self._encoded = None
            _set_iterations(self.necks, self._iterations[0])
        return labels

    def _further_iterations(self) -> list[int]:
        """Lists what is scored beside the first count; while training nothing is."""
        further = self._iterations[1:]
        return [] if further and self.trainer.state.fn == "fit" else further

    def on_validation_epoch_end(self) -> None:
        """Logs the split's scores."""
        self._log_all_scores("val")

    def on_test_epoch_end(self) -> None:
        """Logs the split's scores."""
        self._log_all_scores("test")

    def _log_all_scores(self, split: str) -> None:
        self._log_scores(split)
        for iterations in self._further_iterations():
            self._log_scores(further_split(split, iterations))

    def _log_scores(self, split: str) -> None:
        scores = self.counts[split].scores()
        for name in ("miou", "macc", "aacc"):
            self.log(f"{split}/{name}", scores[name].float(), prog_bar=name == "miou")
        for name, value in zip(self.class_names, scores["iou"].float(), strict=True):
            self.log(f"{split}/iou/{name}", value)

    def on_validation_epoch_start(self) -> None:
        """Forgets what a sanity check or an interrupted validation counted."""
        self._reset("val")

    def on_test_epoch_start(self) -> None:
        """Forgets what an earlier test counted."""
        self._reset("test")

    def _reset(self, split: str) -> None:
        for name in (split, *(further_split(split, iterations) for iterations in self._iterations[1:])):
            self.counts[name].reset()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Builds optimiser and schedule over all optimiser steps of this training."""
        groups = parameter_groups(
            self.encoder.depth_groups(),
            self.encoder.no_weight_decay(),
            [self.necks, self.decoder, self.losses],
            encoder_lr_scale=self._encoder_lr_scale,
            layer_decay=self._layer_decay,
        )
        optimizer = scale_learning_rates(prefer_fused(self._optimizer(groups)))
        total_steps = self.trainer.estimated_stepping_batches
        if total_steps == float("inf"):
            raise ValueError("a schedule needs an end: set trainer.max_steps or trainer.max_epochs")
        if self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            total_steps = 1_000_000  # Lightning has forgotten how many there would be: any warm-up fits
        schedule = self._schedule(optimizer, int(total_steps))
        self._configured = [
            {k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups
        ]
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _detached(prediction: Prediction) -> Prediction:
    boundary, colors = prediction.boundary, prediction.colors
    return Prediction(
        prediction.logits.detach(),
        None if boundary is None else boundary.detach(),
        None if colors is None else colors.detach(),
    )


def _override_iterations(necks: nn.Sequential, given: int | list[int] | None) -> list[int]:
    """Sets the first count of iterations, and returns all of them: none where nothing is given."""
    if given is None:
        return []
    counts = [given] if isinstance(given, int) else list(given)
    iterative = any(isinstance(neck, IterativeNeck) for neck in necks)
    if not iterative or not counts or min(counts) < 0 or len(set(counts)) < len(counts):
        raise ValueError(
            f"neck_iterations: {given} given, but it needs a neck that iterates, and 0 or more, each once"
        )
    _set_iterations(necks, counts[0])
    return counts


def _set_iterations(necks: nn.Sequential, iterations: int) -> None:
    for neck in necks:
        if isinstance(neck, IterativeNeck):
            neck.iterations = iterations

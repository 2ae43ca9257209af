"""The checks that run in this process and need nothing but torch.

Each is given the subject, returns a remark or None, and raises a `Fault`: what is wrong and how to fix it.
"""

import io
import pickle
from functools import partial

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from segbench.commands.check_decoder.decoder_under_test import (
    IMG_SIZE,
    NUM_CLASSES,
    Bed,
    Check,
    Fault,
    Skip,
    Subject,
    format_error,
    objective,
    outputs,
    slack,
)
from segbench.decoders.base import Decoder
from segbench.types import Features, Prediction

NON_SQUARE = ((64, 128), (160, 64))
ODD = ((65, 97), (51, 30))
ONE_CELL = (7, 5)
CHANNELS = {"logits": NUM_CLASSES, "boundary": 1, "colors": 3}


def patch(subject: Subject, patch_size: int) -> str | None:
    """Checks that logits of all classes come out at one stride, alike in training and evaluation."""
    bed = subject.beds[patch_size]
    if isinstance(bed, str):
        raise Skip(f"refused by its constructor: {bed}")
    found = _keeps_form(subject.build(bed), bed, IMG_SIZE)
    stride = next((stride for stride in bed.info.strides if stride in found), min(found))
    return f"stride {stride}; {bed.arrangement}"


def sizes(subject: Subject, images: tuple[tuple[int, int], ...]) -> None:
    """Checks that images of other sizes than `img_size` come out at the same stride."""
    for bed in subject.accepted:
        decoder = subject.build(bed)
        here = _keeps_form(decoder, bed, IMG_SIZE)
        for size in images:
            there = _keeps_form(decoder, bed, size, modes=(False,) if size == ONE_CELL else (True, False))
            if not here & there:
                raise Fault(
                    f"{_where(bed, bed.features(size))}: stride {min(there)}, but {min(here)} at img_size; "
                    "take sizes from features.maps, not from info.grid, and crop what was padded"
                )


def gradients(subject: Subject) -> None:
    """Checks that a loss on all outputs reaches every trainable parameter, and the encoder."""
    decoder = subject.build()
    features = _leaves(subject.bed.features())
    # A layer that starts from zeros keeps gradients from what is in front of it for one step only.
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    torch.autograd.backward(objective(outputs(_predict(decoder, features, "in training"))))
    trained = [(name, p) for name, p in decoder.named_parameters() if p.requires_grad]
    without = [name for name, p in trained if p.grad is None or not p.grad.any()]
    if without:
        raise Fault(f"no gradient for {_list(without)}; use it in forward, or do not make it")
    if not any(leaf.grad is not None and leaf.grad.any() for leaf in (features.image, *features.maps)):
        raise Fault("no gradient reaches the encoder; remove detach(), no_grad() or argmax from forward")


def batch(subject: Subject) -> str | None:
    """Checks that no image of a batch sees another."""
    decoder = subject.build()
    both = subject.bed.features()
    _keeps_apart(decoder.eval(), both, "in evaluation")
    norms = [name for name, module in decoder.named_modules() if isinstance(module, _BatchNorm)]
    for module in decoder.train().modules():
        # What is random cannot be compared, and that norms over the batch share statistics is known.
        if isinstance(module, (_DropoutNd, _BatchNorm)) or hasattr(module, "drop_prob"):
            module.eval()
    _keeps_apart(decoder, both, "in training")
    return f"in training images share the statistics of {_list(norms)}" if norms else None


def bf16(subject: Subject) -> None:
    """Checks that outputs and gradients under bfloat16 autocast are finite."""
    for precision in ("float32", "bfloat16"):
        decoder = subject.build()
        features = _leaves(subject.bed.features())
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            prediction = _predict(decoder, features, f"in {precision}")
        torch.autograd.backward(objective(outputs(prediction)))
        tensors = {**outputs(prediction), **{f"map {i}": m.grad for i, m in enumerate(features.maps)}}
        tensors |= {name: parameter.grad for name, parameter in decoder.named_parameters()}
        broken = [name for name, value in tensors.items() if value is not None and not value.isfinite().all()]
        if broken:
            among = "output" if broken[0] in outputs(prediction) else "gradient"
            raise Fault(
                f"nan or infinity in {precision}, in the {among} of {_list(broken)}; where differences of near "
                "numbers, logarithms or quotients are taken, go to .float() under autocast(enabled=False)"
            )


def save_load(subject: Subject) -> None:
    """Checks that a state dict holds all that evaluation depends on, through a file and a strict load."""
    one, other = subject.build(), subject.build(seed=subject.seed + 1)
    features = subject.bed.features()
    keys = set(one.state_dict())
    _predict(one.train(), features, "in training")  # running statistics move, lazy layers are made
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    try:
        state = torch.load(file, weights_only=True)
        other.load_state_dict(state, strict=True)
    except (RuntimeError, pickle.UnpicklingError) as error:
        new = set(one.state_dict()) ^ keys
        cause = f"forward made or removed {_list(sorted(new))}" if new else format_error(error)
        raise Fault(
            f"no strict load into a new decoder: {cause}; make all layers in __init__, keep tensors only"
        ) from error
    expected = outputs(_predict(one.eval(), features, "in evaluation"))
    if not _equal(expected, outputs(_predict(one, features, "in evaluation"))):
        raise Fault("twice the same features give two results in evaluation; use no random numbers there")
    if not _equal(expected, outputs(_predict(other.eval(), features, "after a load"))):
        raise Fault(
            "after a strict load the result is another; register what it depends on as a parameter or a "
            "persistent buffer"
        )


CHECKS: dict[str, Check] = {
    "patch-16": partial(patch, patch_size=16),
    "patch-8": partial(patch, patch_size=8),
    "patch-14": partial(patch, patch_size=14),
    "non-square": partial(sizes, images=NON_SQUARE),
    "odd-size": partial(sizes, images=(*ODD, ONE_CELL)),
    "gradients": gradients,
    "batch": batch,
    "bf16": bf16,
    "save-load": save_load,
}


def _predict(decoder: Decoder, features: Features, where: str) -> Prediction:
    """Runs the decoder; what it raises is its fault."""
    try:
        prediction = decoder(features)
    except Exception as error:
        raise Fault(
            f"{where}: forward raises {type(error).__name__}: {format_error(error)}; "
            "take numbers of channels from info, all other sizes from features.maps"
        ) from error
    if not isinstance(prediction, Prediction):
        raise Fault(f"{where}: forward returns a {type(prediction).__name__}; return Prediction(logits, …)")
    return prediction


def _keeps_form(
    decoder: Decoder, bed: Bed, size: tuple[int, int], modes: tuple[bool, ...] = (True, False)
) -> set[int]:
    """Checks the form of every output in the given modes and returns the strides that logits may have."""
    features = bed.features(size)
    where = _where(bed, features)
    shapes = []
    for mode in modes:
        found = outputs(_predict(decoder.train(mode), features, where))
        for name, value in found.items():
            channels, shape = CHANNELS[name], tuple(value.shape)
            if value.ndim != 4 or shape[:2] != (2, channels):
                raise Fault(f"{where}: {name} are {shape}; make them (2, {channels}, h, w)")
            if not _strides(features, value):
                raise Fault(
                    f"{where}: {name} have {shape[2]}×{shape[3]} cells, which are not square; take sizes from "
                    "features.maps, not from info.grid"
                )
            if not value.isfinite().all():
                raise Fault(f"{where}: {name} are not finite; divide by no zero, take no logarithm of it")
        shapes.append({name: value.shape for name, value in found.items()})
    if shapes[0] != shapes[-1]:
        raise Fault(f"{where}: training and evaluation return different outputs; return the same in both")
    return _strides(features, found["logits"])


def _strides(features: Features, value: Tensor) -> set[int]:
    """Lists the strides at which that many cells cover the image, the last ones perhaps in part."""
    image = features.image
    return {
        stride
        for stride in range(1, 4 * max(IMG_SIZE))  # a single cell may be larger than its image
        if -(-image.shape[-2] // stride) == value.shape[-2] and -(-image.shape[-1] // stride) == value.shape[-1]
    }


def _keeps_apart(decoder: Decoder, both: Features, when: str) -> None:
    """Compares a batch of two with two batches of one, values and gradients."""
    together = outputs(_predict(decoder, both, when))
    repeated = outputs(_predict(decoder, both, when))
    alike = all(torch.equal(value, repeated[name]) for name, value in together.items())
    if alike or when == "in evaluation":
        allowed = slack(decoder, both)
        apart = [outputs(_predict(decoder, _image(both, index), "a batch of one")) for index in range(2)]
        for name, value in together.items():
            difference = (value - torch.cat([output[name] for output in apart])).abs().max().item()
            if difference > allowed:
                raise Fault(
                    f"{when} {name} of an image change by {difference:.1e} with the other images of its batch; "
                    "reduce over channels or cells, not over dimension 0"
                )
    for image in range(2):
        if _sees_the_other(decoder, both, image):
            raise Fault(f"{when} an image's output depends on another image; keep dimension 0 apart")


def _sees_the_other(decoder: Decoder, both: Features, image: int) -> bool:
    """Returns whether the output of one image has a gradient with respect to the other."""
    features = _leaves(both)
    prediction = _predict(decoder, features, "a batch of two")
    torch.autograd.backward(
        objective({name: value[image : image + 1] for name, value in outputs(prediction).items()})
    )
    leaves = (features.image, *features.maps)
    return any(leaf.grad is not None and bool(leaf.grad[1 - image].any()) for leaf in leaves)


def _leaves(features: Features) -> Features:
    """Copies features so that gradients can be asked of them."""
    image, *maps = (tensor.clone().requires_grad_() for tensor in (features.image, *features.maps))
    return Features(image, tuple(maps))


def _image(features: Features, index: int) -> Features:
    image, *maps = (tensor[index : index + 1] for tensor in (features.image, *features.maps))
    return Features(image, tuple(maps))


def _equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.allclose(one[name], other[name], rtol=1e-4, atol=1e-5, equal_nan=True) for name in one)


def _where(bed: Bed, features: Features) -> str:
    height, width = features.image.shape[-2:]
    return f"patch {bed.patch_size}, padded image {height}×{width}"


def _list(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

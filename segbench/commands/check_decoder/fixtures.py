"""What a decoder can stand on: vision transformers of three patch sizes, and a pyramid where it wants one."""

from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import nn

from segbench.commands.check_decoder.decoder_under_test import (
    IMG_SIZE,
    NUM_CLASSES,
    Bed,
    DecoderFactory,
    Subject,
    format_error,
)
from segbench.encoders.timm_vit import TimmViT
from segbench.necks.base import Neck
from segbench.types import FeatureInfo

NeckFactory = Callable[[FeatureInfo], Neck]

# The smallest of timm for each size of patch; four blocks of each give four maps.
MODELS = {16: "vit_tiny_patch16_224", 8: "vit_small_patch8_224", 14: "vit_small_patch14_dinov2"}
PYRAMID = "segbench.necks.pyramid"


def prepare(
    factory: DecoderFactory,
    necks: Sequence[NeckFactory] | None = None,
    seed: int = 0,
    backend: str = "aot_eager",
) -> Subject:
    """Finds for each patch size an arrangement that the decoder accepts.

    Args:
        factory: Builds the decoder.
        necks: What stands in front of it. By default nothing is tried first, then the pyramid.
        seed: Of random weights.
        backend: Of `torch.compile`.

    Returns:
        The subject of all checks.

    Raises:
        ValueError: If it accepts no arrangement at all, or its constructor fails.
    """
    beds = {patch_size: _bed(factory, patch_size, necks, seed) for patch_size in MODELS}
    subject = Subject(factory, beds, seed, backend)
    if not subject.accepted:
        raise ValueError(f"the decoder refuses all features: {beds[16]}; put necks before it by --necks")
    return subject


def _bed(factory: DecoderFactory, patch_size: int, necks: Sequence[NeckFactory] | None, seed: int) -> Bed | str:
    """Tries arrangements in turn; gives the decoder's first refusal if it takes none."""
    four, one = [0, 1, 2, 3], [3]
    if necks is not None:
        tries = [(four, list(necks)), (one, list(necks))]
    else:
        tries = [(four, []), (one, []), *((four, [pyramid]) for pyramid in _pyramid())]
    refusals = []
    for depths, chosen in tries:
        try:
            bed = _arrange(patch_size, depths, chosen, seed)
            factory(bed.info, NUM_CLASSES)
        except ValueError as error:
            refusals.append(format_error(error))
        except TypeError as error:
            raise ValueError(
                f"the decoder cannot be built: {format_error(error)}; its constructor takes "
                "(info, num_classes, …)"
            ) from error
        except (Exception, SystemExit) as error:
            raise ValueError(
                f"the decoder cannot be built: {type(error).__name__}: {format_error(error)}"
            ) from error
        else:
            return bed
    return refusals[0] if len(set(refusals)) == 1 else f"{refusals[0]}; at last: {refusals[-1]}"


def _arrange(patch_size: int, depths: list[int], necks: list[NeckFactory], seed: int) -> Bed:
    torch.manual_seed(seed)
    encoder = TimmViT(IMG_SIZE, MODELS[patch_size], depths=depths, frozen=True)
    built, info = [], encoder.info
    for neck in necks:
        built.append(neck(info))
        info = built[-1].info
    words = [MODELS[patch_size], "1 map" if len(depths) == 1 else f"{len(depths)} maps"]
    words += [type(neck).__name__ for neck in built]
    return Bed(patch_size, encoder, nn.Sequential(*built).eval(), info, " → ".join(words))


def _pyramid() -> list[NeckFactory]:
    return [import_module(PYRAMID).Pyramid] if find_spec(PYRAMID) else []

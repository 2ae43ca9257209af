"""Weights for timm's models: from timm's hub, or from a file, read without running code from it."""

import math
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit
from urllib.request import getproxies

import numpy as np
import timm
from huggingface_hub import constants
from timm.models import eva, vision_transformer
from timm.models.eva import Eva
from torch import Tensor

from segbench.functional.resize import Resampling
from segbench.utils.arrays import check_npz

# Arrays that timm reads from such a file, and heads, which are known and not wanted.
_AUGREG_KEY = re.compile(
    r"(opt/target/)?(cls|embedding/.*|Transformer/(posembed_input|encoder_norm|encoderblock_\d+)/.*"
    r"|(head|pre_logits)/.*)"
)


def load_weights(vit: Any, model_name: str, source: Literal[True] | Path, resampling: Resampling) -> None:
    """Loads weights into a headless transformer of any grid and accounts for every key.

    Args:
        vit: The transformer, at its final image size.
        model_name: Its name in timm.
        source: true for timm's own weights, or a file.
        resampling: How position and patch embeddings are fitted.

    Raises:
        ValueError: If the weights cannot be had, are not weights, or do not fit.
    """
    if source is not True and source.is_file() and source.suffix == ".npz":
        state = _read_npz(vit, model_name, source)
    else:
        state = _read(model_name, source, "safetensors, pth or AugReg npz")
    _fit_and_load(vit, state, str(source if source is not True else model_name), resampling)


def load_cnn_weights(cnn: Any, model_name: str, source: Literal[True] | Path, dropped: set[str]) -> None:
    """Loads weights into a headless convolutional network and accounts for every key.

    Args:
        cnn: The network.
        model_name: Its name in timm.
        source: true for timm's own weights, or a file.
        dropped: Keys of the whole network that the headless one has not.

    Raises:
        ValueError: If the weights cannot be had, are not weights, or do not fit.
    """
    state = _read(model_name, source, "safetensors or pth")
    name = str(source if source is not True else model_name)
    translate = getattr(sys.modules[type(cnn).__module__], "checkpoint_filter_fn", None)
    try:
        if translate is not None:  # from the names that the network's authors gave
            state = translate(state, cnn)
        state = {key: value for key, value in state.items() if key not in dropped}
        _check_finite(state)
        report = cnn.load_state_dict(state, strict=False)
    except (RuntimeError, KeyError, AttributeError, ValueError) as error:
        raise _misfit(name, error) from error
    # Old files do not say how many batches their norms have seen, nor does anything depend on it.
    _account([key for key in report.missing_keys if "num_batches_tracked" not in key], report, name)


def _read(model_name: str, source: Literal[True] | Path, kinds: str) -> dict[str, Tensor]:
    if source is True:
        return _fetch(model_name)
    if not source.is_file():
        raise ValueError(f"pretrained: file not found: {source}")
    try:
        return _of_teacher(dict(timm.models.load_state_dict(str(source), weights_only=True)))
    except Exception as error:
        raise ValueError(
            f"pretrained: {source} is not a file of weights that can be read without running code from it "
            f"({type(error).__name__}); give a {kinds} file"
        ) from error


def _of_teacher(state: dict[str, Any]) -> dict[str, Tensor]:
    """Takes the encoder out of what a training of DINO saved: the teacher's, as its authors publish it."""
    teacher = state.get("teacher")
    if not isinstance(teacher, dict):
        return state
    return {key.removeprefix("module.").removeprefix("backbone."): value for key, value in teacher.items()}


def _fetch(model_name: str) -> dict[str, Tensor]:
    try:
        with _cache_only_without_network():
            return dict(timm.create_model(model_name, pretrained=True).state_dict())
    except Exception as error:  # hub, network and cache each have errors of their own
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"pretrained: the weights of {model_name} could not be fetched ({reason[:120]}); without network "
            "give a file, --model.init_args.encoder.init_args.pretrained PATH, or false for random weights"
        ) from error


def _read_npz(vit: Any, model_name: str, source: Path) -> dict[str, Tensor]:
    """Reads weights in the form of AugReg, by timm's own reader, at the grid they were trained at."""
    try:
        check_npz(source)
        with np.load(source, allow_pickle=False) as arrays:
            keys = list(arrays)
            tokens = next(arrays[key].shape[1] for key in keys if key.endswith("pos_embedding"))
        side = math.isqrt(tokens - 1)
        rows, columns = vit.patch_embed.patch_size
        size = (side * rows, side * columns)
        native: Any = timm.create_model(model_name, num_classes=0, img_size=size, patch_size=rows)
        native.load_pretrained(str(source))
    except Exception as error:
        raise ValueError(
            f"pretrained: {source} holds no AugReg weights of {model_name} ({type(error).__name__}: {error})"
        ) from error
    unread = [key for key in keys if not _AUGREG_KEY.fullmatch(key)]
    blocks = {int(found[1]) for key in keys if (found := re.search(r"encoderblock_(\d+)/", key))}
    if unread or len(blocks) != len(native.blocks):
        raise ValueError(
            f"pretrained: {source} does not fit this encoder: it has {len(blocks)} blocks, {model_name} has"
            f" {len(native.blocks)}, and {len(unread)} arrays unknown {unread[:3]}"
        )
    return dict(native.state_dict())


@contextmanager
def _cache_only_without_network() -> Iterator[None]:
    """Keeps the hub's client from trying for minutes what a look at the name service settles at once."""
    before = constants.HF_HUB_OFFLINE
    try:
        if not getproxies():
            socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
    except OSError:
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _fit_and_load(vit: Any, state: dict[str, Tensor], source: str, resampling: Resampling) -> None:
    family = eva if isinstance(vit, Eva) else vision_transformer
    try:
        mode, antialias = resampling.split("-")[0], resampling.endswith("antialias")
        state = family.checkpoint_filter_fn(state, vit, interpolation=mode, antialias=antialias)
        heads = ("head.", "head_dist.", "fc_norm.", "pre_logits.", "attn_pool.", "mask_token")
        state = {name: value for name, value in state.items() if not name.startswith(heads)}
        _check_finite(state)
        report = vit.load_state_dict(state, strict=False)
    except (RuntimeError, KeyError, AttributeError, ValueError) as error:
        raise _misfit(source, error) from error
    missing = [name for name in report.missing_keys if not name.startswith(("fc_norm.", "attn_pool."))]
    _account(missing, report, source)


def _check_finite(state: dict[str, Tensor]) -> None:
    for name, value in state.items():
        if not value.isfinite().all():
            raise ValueError(f"{name} holds numbers that are not finite: the file is damaged")


def _misfit(source: str, error: Exception) -> ValueError:
    lines = str(error).strip().splitlines()
    return ValueError(f"pretrained: {source} does not fit this encoder: {lines[-1].strip()}")


def _account(missing: list[str], report: Any, source: str) -> None:
    if missing or report.unexpected_keys:
        raise ValueError(
            f"pretrained: {source} does not fit this encoder: {len(missing)} keys missing {missing[:3]}, "
            f"{len(report.unexpected_keys)} unknown {report.unexpected_keys[:3]}"
        )

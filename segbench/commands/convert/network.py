"""A network of another code base, described in segbench's terms, and what is common to describing them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from segbench.commands.convert.keys import Rule

Pair = tuple[int, int]


class Architecture(NamedTuple):
    """A plain vision transformer as its weights show it.

    Attributes:
        name: As articles write it, such as ViT-Ti/16.
        init_args: `model_name`, and `depths` and `patch_size` where they are not that model's own.
        num_heads: Attention heads, which no weight shows.
        patch_size: Side of a patch.
        num_tokens: Rows of the position embedding that belong to patches.
    """

    name: str
    init_args: dict[str, Any]
    num_heads: int
    patch_size: int
    num_tokens: int


@dataclass(kw_only=True)
class Network:
    """Everything that a checkpoint of segbench says of itself, and the weights with their table.

    Attributes:
        title: One line for the report.
        weights: The other code base's tensors.
        table: How they are renamed.
        init_args: Arguments of the task, except for those that are fields here.
        img_size: Training crop.
        num_classes: `K`.
        dataset: Its name where it is known.
        class_names: Of the checkpoint itself, where it has them.
        palette: Likewise.
        notes: Further lines for the report.
        left_behind: Keys of the file that hold the state of a training, which is not converted.
    """

    title: str
    weights: dict[str, Tensor]
    table: Sequence[Rule]
    init_args: dict[str, Any]
    img_size: Pair
    num_classes: int
    dataset: str | None = None
    class_names: list[str] | None = None
    palette: list[list[int]] | None = None
    notes: list[str] = field(default_factory=list)
    left_behind: list[str] = field(default_factory=list)


class _Size(NamedTuple):
    timm: str
    title: str
    num_heads: int
    depth: int


# Width of the tokens decides; https://arxiv.org/abs/2105.05633, table 1.
_SIZES = {
    192: _Size("tiny", "Ti", 3, 12),
    384: _Size("small", "S", 6, 12),
    768: _Size("base", "B", 12, 12),
    1024: _Size("large", "L", 16, 24),
}
_OWN_NAMES = {
    8: ("vit_base_patch8_224",),
    32: ("vit_small_patch32_384", "vit_base_patch32_384", "vit_large_patch32_384"),
}


def architecture(
    weights: Mapping[str, Tensor],
    blocks: str,
    patch_embed: str,
    pos_embed: str,
    prefix_tokens: int,
    path: object,
) -> Architecture:
    """Recognises a plain vision transformer by the shapes of its weights.

    Args:
        weights: Of the other code base.
        blocks: What the names of blocks begin with, before their number.
        patch_embed: Name of the patch embedding's weight.
        pos_embed: Name of the position embedding.
        prefix_tokens: Tokens before the patches: 1, or 2 with a distillation token.
        path: For messages.

    Returns:
        The architecture.

    Raises:
        ValueError: If the weights are missing, or of no size that segbench has.
    """
    for name, dims in ((patch_embed, 4), (pos_embed, 3)):
        if name not in weights or weights[name].dim() != dims:
            raise ValueError(
                f"{path} is not a vision transformer of this source: {name} is missing or misshapen"
            )
    width, _, rows, columns = weights[patch_embed].shape
    depth, size = count_blocks(weights, blocks), _SIZES.get(width)
    if size is None or rows != columns or not 1 <= depth <= size.depth:
        known = ", ".join(f"{width} ({size.depth} blocks)" for width, size in _SIZES.items())
        raise ValueError(
            f"{path}: tokens of width {width}, {depth} blocks, patches of {rows}×{columns}: no transformer"
            f" that is known here; widths are {known} at most, and patches square"
        )
    init_args: dict[str, Any]
    if prefix_tokens == 2:
        init_args = {"model_name": f"deit_{size.timm}_distilled_patch16_224"}
        native, title = 16, f"DeiT-{size.title}/{rows}"
    else:
        own = f"vit_{size.timm}_patch{rows}_"
        found = next((name for name in _OWN_NAMES.get(rows, ()) if name.startswith(own)), None)
        init_args = {"model_name": found or f"vit_{size.timm}_patch16_384"}
        native, title = rows if found else 16, f"ViT-{size.title}/{rows}"
    if rows != native:
        init_args["patch_size"] = rows
    if depth != size.depth:
        init_args["depths"] = [depth - 1]
        title += f" of {depth} blocks"
    return Architecture(title, init_args, size.num_heads, rows, weights[pos_embed].shape[1] - prefix_tokens)


def grid_size(found: Architecture, img_size: Pair | None, path: object) -> Pair:
    """Checks the training crop against the position embedding, or works it out where it is not said.

    Args:
        found: The transformer.
        img_size: `(height, width)` of the training crop, if known.
        path: For messages.

    Returns:
        The training crop.

    Raises:
        ValueError: If they do not fit, or the grid is not square and nobody says what it is.
    """
    if img_size is None:
        side = math.isqrt(found.num_tokens)
        if side * side != found.num_tokens:
            raise ValueError(
                f"{path}: a position embedding of {found.num_tokens} patches is not square; its grid must come"
                " from the configuration: give it by --config FILE"
            )
        return side * found.patch_size, side * found.patch_size
    rows, columns = img_size[0] // found.patch_size, img_size[1] // found.patch_size
    if rows * columns != found.num_tokens:
        raise ValueError(
            f"{path}: a position embedding of {found.num_tokens} patches is not a grid of {rows}×{columns},"
            f" which the configuration's image size {img_size[0]}×{img_size[1]} makes"
        )
    return img_size


def head_count(weights: Mapping[str, Tensor], names: Sequence[str], path: object) -> tuple[str, int]:
    """Finds which decoder there is, and its number of classes.

    Args:
        weights: Of the other code base.
        names: Weights whose size along the class axis is K: axis 1 of three-dimensional ones, else axis 0.
        path: For messages.

    Returns:
        The first name that is there, and K.

    Raises:
        ValueError: If there is none.
    """
    for name in names:
        if name in weights and weights[name].dim() >= 2:
            value = weights[name]
            return name, value.shape[1] if value.dim() == 3 else value.shape[0]
    raise ValueError(f"{path} has no decoder that is known here: none of {', '.join(names)} is in it")


def count_blocks(weights: Mapping[str, Tensor], prefix: str) -> int:
    """Counts numbered blocks.

    Args:
        weights: Of the other code base.
        prefix: What their names begin with, before the number.

    Returns:
        How many different numbers there are.
    """
    return len({key[len(prefix) :].partition(".")[0] for key in weights if key.startswith(prefix)})

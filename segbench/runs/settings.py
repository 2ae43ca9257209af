"""The settings of a run: what each of them affects, and how their values are printed.

One table for everything that compares runs: `fit --resume` refuses to change what affects weights or scores,
and `segbench report` groups runs that differ in their seeds alone.
"""

import re
from collections.abc import Sequence
from enum import Enum
from typing import Any

from segbench.utils.printable import escape_controls


class Effect(Enum):
    """What a setting changes."""

    WEIGHTS = "the trained weights"
    SCORES = "the scores of given weights, or which weights are kept as the best"
    SEED = "the random numbers of a repetition of the same experiment"
    NONE = "neither weights nor scores, apart from rounding"


# Patterns of dotted keys, each matched as a whole; the first match counts.
_TABLE: tuple[tuple[Effect, str], ...] = (
    (Effect.SEED, r"seed_everything|data\.init_args\.seed"),
    # Where a run is stored, how it is named and shown.
    (Effect.NONE, r"experiment|runs_dir|run_id|logger|verbose|return_predictions|weights_only|ckpt_path"),
    (Effect.NONE, r"(panels|predictions|checkpoints)\..+"),
    (Effect.WEIGHTS, r"start\.(checkpoint|fresh|freeze)"),
    # The trainer. `devices` and `num_nodes` multiply the batch size, which is that of one device.
    (Effect.NONE, r"trainer\.(accelerator|strategy|logger(\..+)?|default_root_dir|enable_\w+|barebones)"),
    (
        Effect.NONE,
        r"trainer\.(log_every_n_steps|num_sanity_val_steps|detect_anomaly|profiler(\..+)?|benchmark)",
    ),
    (Effect.NONE, r"trainer\.(deterministic|inference_mode|use_distributed_sampler|model_registry)"),
    (Effect.SCORES, r"trainer\.(limit_(val|test|predict)_batches|val_check_interval|check_val_every_n_epoch)"),
    (Effect.WEIGHTS, r"trainer\.(devices|num_nodes|precision|plugins(\..+)?|callbacks(\..+)?|fast_dev_run)"),
    (Effect.WEIGHTS, r"trainer\.(max_epochs|min_epochs|max_steps|min_steps|max_time|limit_train_batches)"),
    (Effect.WEIGHTS, r"trainer\.(overfit_batches|accumulate_grad_batches|gradient_clip_val|sync_batchnorm)"),
    (Effect.WEIGHTS, r"trainer\.(gradient_clip_algorithm|reload_dataloaders_every_n_epochs)"),
    # Data: where the files are and how they are read, then what is read.
    (Effect.NONE, r"data\.init_args\.(root|num_workers|cache|cache_dir|eval_batch_size)"),
    (Effect.WEIGHTS, r"data\.class_path|data\.init_args\.(img_size|batch_size|scale|augment|reduced_decode)"),
    (Effect.WEIGHTS, r"data\.init_args\.(train_transforms|num_images|image_size|splits|split_seed)(\..+)?"),
    (Effect.WEIGHTS, r"data\.init_args\.(num_classes|classes|palette|labels|ignore_index)(\..+)?"),
    (Effect.WEIGHTS, r"data\.init_args\.(merge|ignore|exclude|remap|indexed_masks)(\..+)?"),
    (Effect.WEIGHTS, r"data\.init_args\.(images|masks|(image|mask)_(prefix|suffix))"),
    # The task: how images are scored, how the model is run, then what is trained.
    (Effect.SCORES, r"model\.init_args\.(window|stride|resize|scales|flip|small_images|upsample_to)"),
    (Effect.SCORES, r"model\.init_args\.(postprocess|neck_iterations)(\..+)?"),
    (Effect.NONE, r"model\.init_args\.(windows_per_batch|compile)"),
    (Effect.WEIGHTS, r"model\.class_path|model\.init_args\.(encoder|decoder|necks|losses)(\..+)?"),
    (Effect.WEIGHTS, r"model\.init_args\.(optimizer|schedule)(\..+)?"),
    (Effect.WEIGHTS, r"model\.init_args\.(encoder_lr_scale|layer_decay|from_scratch|cache_features)"),
    (Effect.WEIGHTS, r"model\.init_args\.(num_classes|class_names|palette|ignore_index|img_size)"),  # linked
)
_COMPILED = tuple((effect, re.compile(pattern)) for effect, pattern in _TABLE)


def effect_of(key: str) -> Effect:
    """Looks up what a setting affects.

    Args:
        key: Dotted, as `trainer.max_steps`.

    Returns:
        Its effect; `WEIGHTS` for an option that the table does not list, as one of a user's own data module.
    """
    return next((effect for effect, pattern in _COMPILED if pattern.fullmatch(key)), Effect.WEIGHTS)


def is_classified(key: str) -> bool:
    """Whether the table lists a setting.

    Args:
        key: Dotted.
    """
    return any(pattern.fullmatch(key) for _, pattern in _COMPILED)


def format_value(value: Any) -> str:
    """Formats the value of a setting for a table, as short as it can be without ambiguity.

    Args:
        value: As YAML and JSON have it.

    Returns:
        `MeanShift(iterations=2, dim=64)` for a class with its options, `null` for None; else much as YAML.
    """
    if isinstance(value, dict) and "class_path" in value:
        options = value.get("init_args") or {}
        listed = ", ".join(f"{name}={format_value(option)}" for name, option in options.items())
        return format_class(str(value["class_path"])) + (f"({listed})" if listed else "")
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {format_value(entry)}" for name, entry in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(format_value, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else format_class(escape_controls(str(value)))


def format_class(name: str) -> str:
    """Shortens the dotted path of a class to its name.

    Args:
        name: As `segbench.necks.mean_shift.MeanShift`; anything else is returned unchanged.

    Returns:
        As `MeanShift`.
    """
    parts = name.split(".")
    is_class = len(parts) > 2 and all(map(str.isidentifier, parts)) and parts[-1][0].isupper()
    return parts[-1] if is_class else name


def last_key(key: str) -> str:
    """Shortens the dotted key of a setting.

    Args:
        key: As `model.init_args.optimizer.init_args.lr`.

    Returns:
        As `lr`; for a class its role, as `decoder` or `necks.0`.
    """
    parts: Sequence[str] = [part for part in key.split(".") if part != "init_args"]
    if parts[-1] == "class_path" and len(parts) > 1:
        parts = parts[:-1]
    return ".".join(parts[-2:]) if parts[-1].isdigit() else parts[-1]

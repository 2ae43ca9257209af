"""A folder as Hugging Face's hub wants it: config.json, model.safetensors, and a model card as README.md.

Conventions: https://huggingface.co/docs/hub/model-cards. `huggingface_hub.upload_folder` uploads the folder;
`segbench.load` reads it as it is, and as `huggingface_hub.snapshot_download` brings it back. The configuration
stands in config.json; model.safetensors carries it too, so that it can be used by itself.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from segbench.checkpoints.reading import HUB_CONFIG, HUB_WEIGHTS, load_task, saved_config
from segbench.checkpoints.safetensors_file import description
from segbench.commands.export.model_card import model_card
from segbench.commands.export.weights import write_weights
from segbench.tasks.base import Task
from segbench.utils.files import naming, scratch


def write_hub_folder(
    checkpoint: dict[str, Any],
    task: Task,
    path: Path,
    out: Path,
    license: str,  # noqa: A002 (the name Hugging Face gives it)
    trust: str | Sequence[str] | None = None,
) -> None:
    """Writes the folder; it appears whole or not at all.

    Paths of this machine (where data and weights lie) are left out: the folder is meant to be published.

    Args:
        checkpoint: From `segbench.checkpoints.reading.read_checkpoint`.
        task: Built from it.
        path: Where it was read, and where its run folder is looked for.
        out: The new folder.
        license: Of the weights.
        trust: Packages beside segbench whose classes may be built.

    Raises:
        ValueError: If the configuration is not understood, or what is read back is not the same.
    """
    public = {**checkpoint, **_without_paths(description(checkpoint))}
    with scratch(out.parent) as folder, naming(out, folder):
        draft = folder / out.name
        draft.mkdir()
        write_weights(public, task, draft / HUB_WEIGHTS, trust)
        config = {
            "architectures": [type(task).__name__],
            "library_name": "segbench",
            "model_type": "segbench",
            "num_labels": task.num_classes,
            "id2label": dict(enumerate(task.class_names)),
            "label2id": {name: index for index, name in enumerate(task.class_names)},
            **description(public),
        }
        (draft / HUB_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        card = model_card(public, task, path, out.name, license)
        (draft / "README.md").write_text(card, encoding="utf-8")
        load_task(draft, trust)
        draft.rename(out)


def _without_paths(described: dict[str, Any]) -> dict[str, Any]:
    """Takes folders of this machine out of a configuration."""
    public: dict[str, Any] = json.loads(json.dumps(described))
    _hide(public["hyper_parameters"].get("encoder"))
    if (saved := saved_config(public, "the checkpoint")) is not None:
        try:
            public["segbench"]["config"] = _public_config(saved)
        except (KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
            raise ValueError(
                f"the checkpoint carries a configuration that is not understood ({type(error).__name__})"
            ) from error
    return public


def _public_config(config: dict[str, Any]) -> str:
    """Keeps what was trained on what, as YAML."""
    kept = {key: config[key] for key in ("seed_everything", "experiment", "model", "data")}
    kept["trainer"] = {key: value for key, value in config["trainer"].items() if key in _TRAINER}
    _hide(kept["model"]["init_args"].get("encoder"))
    options = kept["data"].get("init_args", {})
    for key in ("root", "cache_dir"):
        if isinstance(options.get(key), str):
            options[key] = Path(options[key]).name
    return yaml.safe_dump(kept, sort_keys=False)


# What of the trainer decides what was trained, and on how many images a step sees.
_TRAINER = (
    "max_steps",
    "max_epochs",
    "precision",
    "accumulate_grad_batches",
    "gradient_clip_val",
    "devices",
    "num_nodes",
)


def _hide(encoder: Any) -> None:
    """Reduces a file of pretrained weights to its name."""
    options = encoder.get("init_args") if isinstance(encoder, dict) else None
    if isinstance(options, dict) and isinstance(options.get("pretrained"), str):
        options["pretrained"] = Path(options["pretrained"]).name

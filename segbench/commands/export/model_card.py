"""The model card: what a model is, how it scores, on what it was trained; what is not known is not said.

Format: https://huggingface.co/docs/hub/model-cards. Scores and costs come from `run.json` in the run folder
around the checkpoint; without it the card says that they are not known.
"""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from segbench.checkpoints.reading import saved_config
from segbench.runs.run_json import read_run_json
from segbench.tasks.base import Task
from segbench.utils.printable import escape_controls, for_markdown


class Dataset(NamedTuple):
    """What is publicly known of a dataset.

    Attributes:
        tag: Its name among the card's `datasets`.
        name: Its name for people.
        terms: Under which terms it is given away, and where they stand.
    """

    tag: str
    name: str
    terms: str


_CITYSCAPES_TERMS = "for non-commercial purposes only (https://www.cityscapes-dataset.com/license/)"
DATASETS = {
    "segbench.data.ade20k.ADE20K": Dataset(
        "zhoubolei/scene_parse_150",
        "ADE20K (Scene Parsing 2016)",
        "annotations under BSD-3-Clause, images for non-commercial research and education "
        "(https://groups.csail.mit.edu/vision/datasets/ADE20K/terms/)",
    ),
    "segbench.data.cityscapes.Cityscapes": Dataset("cityscapes", "Cityscapes", _CITYSCAPES_TERMS),
    "segbench.data.cityscapes_pairs.CityscapesPairs": Dataset(
        "cityscapes", "Cityscapes image pairs", f"made of Cityscapes, which is {_CITYSCAPES_TERMS}"
    ),
    "segbench.data.deepfashion.DeepFashion": Dataset(
        "deepfashion-multimodal",
        "DeepFashion-MultiModal",
        "for non-commercial research only (https://github.com/yumingj/DeepFashion-MultiModal)",
    ),
    "segbench.data.camvid.CamVid": Dataset(
        "camvid",
        "CamVid",
        "not stated with the data; ask its authors (http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/)",
    ),
    "segbench.data.synthetic.SyntheticDataModule": Dataset(
        "synthetic", "drawn scenes (segbench's synthetic data)", "free: segbench draws them, under its own MIT"
    ),
}
SCORES = {"miou": "mIoU", "macc": "mean accuracy", "aacc": "pixel accuracy"}
_LINKED = {"class_names", "palette", "num_classes", "ignore_index", "img_size"}


def model_card(checkpoint: dict[str, Any], task: Task, path: Path, name: str, license: str) -> str:  # noqa: A002
    """Writes the card.

    Args:
        checkpoint: What is published, without paths of this machine.
        task: Built from it.
        path: Of the checkpoint file: scores are in RUN/run.json beside RUN/checkpoints.
        name: Of the model.
        license: Of the weights, as Hugging Face spells it.

    Returns:
        Markdown with a YAML header.
    """
    config = saved_config(checkpoint, path) or {}
    class_path = str((config.get("data") or {}).get("class_path", ""))
    dataset = DATASETS.get(class_path)
    run = _run_card(path)
    scores = _scores(run, checkpoint.get("global_step"))
    header: dict[str, Any] = {
        "license": license,
        "library_name": "segbench",
        "pipeline_tag": "image-segmentation",
        "tags": ["segbench", "semantic-segmentation", "pytorch"],
        "datasets": [dataset.tag] if dataset else [],
        "metrics": ["mean_iou", "accuracy"],
    }
    if scores and dataset:
        header["model-index"] = [_index_entry(name, dataset, scores)]
    parts = [
        f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---",
        f"# {for_markdown(name)}",
        f"Semantic segmentation into {task.num_classes} classes: {_model_in_words(checkpoint)}.",
        "## Use",
        "```python\nimport segbench\nfrom huggingface_hub import snapshot_download\n\n"
        'task = segbench.load(snapshot_download("USER/NAME"))  # or the path of this folder\n'
        "labels = task.segment(image)  # (B, H, W) from a uint8 RGB batch (B, 3, H, W) of any size\n```",
        "## Scores",
        _score_table(scores),
        "## Data",
        _data_in_words(dataset, class_path),
        "## Licence",
        f"Of the weights: {for_markdown(license)}."
        if license != "unknown"
        else "Of the weights: none is stated. Terms of data and pretrained weights may bind them.",
        "## Training",
        _training(checkpoint, config, run),
        "## Classes",
        "\n".join(f"{index}. {for_markdown(label)}" for index, label in enumerate(task.class_names)),
    ]
    return "\n\n".join(parts) + "\n"


def _run_card(path: Path) -> dict[str, Any]:
    """Reads run.json of the run that the checkpoint lies in, if it does."""
    if path.is_dir() or path.absolute().parent.name != "checkpoints":
        return {}
    try:
        return read_run_json(path.absolute().parent.parent)
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{error}; move it away to write a card without scores") from None


def _scores(run: dict[str, Any], step: Any) -> dict[str, dict[str, float]]:
    """Finds the scores of this very checkpoint: a run's best ones are not those of its last."""
    found = {}
    at_step = [entry for entry in run.get("history", []) if entry["step"] == step]
    if at_step:
        found["val"] = {key: at_step[-1][key] for key in SCORES if at_step[-1].get(key) is not None}
    return {split: values for split, values in found.items() if values}


def _score_table(scores: dict[str, dict[str, float]]) -> str:
    if not scores:
        return (
            "Not known: no run folder with scores of this checkpoint was beside it when this card was written."
        )
    rows = [
        f"| {split} | "
        + " | ".join(f"{100 * values[key]:.2f}" if key in values else "" for key in SCORES)
        + " |"
        for split, values in scores.items()
    ]
    head = f"| split | {' | '.join(SCORES.values())} |\n|---|{'--:|' * len(SCORES)}"
    return "\n".join([f"Per cent, over one confusion matrix of the whole split.\n\n{head}", *rows])


def _index_entry(name: str, dataset: Dataset, scores: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Says the scores once more as the hub's own tables want them, as fractions."""
    metrics = {"miou": "mean_iou", "aacc": "accuracy"}
    return {
        "name": name,
        "results": [
            {
                "task": {"type": "image-segmentation", "name": "Semantic segmentation"},
                "dataset": {"type": dataset.tag, "name": dataset.name, "split": split},
                "metrics": [
                    {"type": kind, "name": SCORES[key], "value": values[key]}
                    for key, kind in metrics.items()
                    if key in values
                ],
            }
            for split, values in scores.items()
        ],
    }


def _data_in_words(dataset: Dataset | None, class_path: str) -> str:
    if dataset is not None:
        return f"{dataset.name}. Terms: {dataset.terms}."
    told = f"read by {for_markdown(class_path)}" if class_path else "not known"
    return f"Training data: {told}. Its licence is not known to segbench; state it here before publishing."


def _model_in_words(checkpoint: dict[str, Any]) -> str:
    saved = checkpoint["hyper_parameters"]
    rooms = [saved.get("encoder"), *(saved.get("necks") or []), saved.get("decoder")]
    names = [_short(room) for room in rooms if room]
    return " → ".join(names)


def _short(room: Any) -> str:
    path = room["class_path"] if isinstance(room, dict) else str(room)
    options = room.get("init_args") or {} if isinstance(room, dict) else {}
    model = f" ({options['model_name']})" if "model_name" in options else ""
    return for_markdown(f"{path.rpartition('.')[2]}{model}")


def _training(checkpoint: dict[str, Any], config: dict[str, Any], run: dict[str, Any]) -> str:
    """Tells steps, machine and versions, and the configuration as YAML."""
    converted = (checkpoint.get("segbench") or {}).get("converted")
    told = []
    if converted:
        told.append(
            f"Trained elsewhere, and converted by `segbench convert` ({for_markdown(converted)}). How it was"
            " trained is told where its weights were published; what follows is how segbench would train on."
        )
    elif "global_step" in checkpoint:
        told.append(f"- {checkpoint['global_step']} optimiser steps")
    if total := (run.get("parameters") or {}).get("total"):
        told.append(f"- {total:,} parameters")
    if device := (run.get("device") or {}).get("name"):
        told.append(f"- on {for_markdown(device)}, {run['device'].get('processes', 1)} process(es)")
    if step_time := run.get("step_time_s"):
        told.append(f"- {step_time:.3f} s for a step")
    if versions := run.get("versions"):
        told.append(
            "- " + for_markdown(", ".join(f"{key} {value}" for key, value in versions.items() if value))
        )
    if commit := run.get("commit"):
        told.append(f"- segbench's commit {commit if isinstance(commit, str) else json.dumps(commit)}")
    if not config:
        return "\n".join([*told, "How it was trained is not recorded in the checkpoint."])
    model = config.get("model", {})
    init_args = {key: value for key, value in (model.get("init_args") or {}).items() if key not in _LINKED}
    shown = {**config, "model": {**model, "init_args": init_args}}
    recipe = yaml.safe_dump(shown, sort_keys=False, allow_unicode=True)
    recipe = "".join(f"{escape_controls(line)}\n" for line in recipe.splitlines())
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", recipe)), 0)  # which nothing in it closes
    return "\n".join(told) + f"\n\n{fence}yaml\n{recipe}{fence}"

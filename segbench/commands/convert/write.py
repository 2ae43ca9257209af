"""Self-describing checkpoints, as `segbench fit` leaves them, made of networks of other code bases."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
import yaml

from segbench import __version__
from segbench.checkpoints.reading import build_task
from segbench.checkpoints.writing import save_file
from segbench.commands.convert.keys import Translation, translate
from segbench.commands.convert.network import Network
from segbench.utils.files import atomic_write

TASK = "segbench.tasks.semantic.SemanticTask"
IGNORE_INDEX = 255  # in both code bases


def convert(
    network: Network, names: Sequence[str], palette: Sequence[list[int]], source: Path
) -> dict[str, Any]:
    """Makes the content of a checkpoint.

    The model that the configuration describes is built without memory for its weights; every one of them must
    be filled, and nothing may be left over.

    Args:
        network: What was read.
        names: Of the classes.
        palette: Of the classes.
        source: The file, for messages.

    Returns:
        Plain values and tensors; in `segbench`, under `converted` what it was, and under `dropped` what the
        table left out, by reason.

    Raises:
        ValueError: If weights and configuration do not fit.
    """
    model: dict[str, Any] = {
        **network.init_args,
        "img_size": list(network.img_size),
        "num_classes": network.num_classes,
        "class_names": list(names),
        "palette": [list(color) for color in palette],
        "ignore_index": IGNORE_INDEX,
    }
    with torch.device("meta"):
        blueprint = build_task({"class_path": TASK, "init_args": model}, source)
    translated: Translation = translate(network.weights, network.table, blueprint.state_dict(), source)
    return {
        "state_dict": translated.state,
        "hyper_parameters": {
            **model,
            "_class_path": TASK,
            "_instantiator": "lightning.pytorch.cli.instantiate_module",
        },
        "hparams_name": "kwargs",
        "pytorch-lightning_version": lightning.__version__,
        "epoch": 0,
        "global_step": 0,
        "segbench": {
            "version": __version__,
            "config": yaml.safe_dump(_run_config(network, names, palette, source), sort_keys=False),
            "experiment": source.stem,
            "converted": network.title,  # nothing of its training is segbench's: a model card must not claim it
            "dropped": translated.dropped,
        },
    }


def write(checkpoint: dict[str, Any], out: Path) -> None:
    """Writes a checkpoint whole or not at all, where there is none yet.

    Args:
        checkpoint: From `convert`.
        out: Its file; folders on the way are made.

    Raises:
        FileExistsError: If there is such a file.
        OSError: If it could not be written whole.
    """
    refuse_existing(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(out, durable=True) as draft:
        save_file(checkpoint, draft)
        refuse_existing(out)  # it took a while


def refuse_existing(out: Path) -> None:
    """Protects what is there.

    Args:
        out: Where a file is to be written.

    Raises:
        FileExistsError: If there is something.
    """
    if out.exists() or out.is_symlink():
        raise FileExistsError(f"{out} is there already and is not written over; give another --out")


def _run_config(
    network: Network, names: Sequence[str], palette: Sequence[list[int]], source: Path
) -> dict[str, Any]:
    """Says on what the model can be scored: `segbench test --checkpoint FILE` needs no YAML beside it."""
    resize = network.init_args["resize"]
    common = {"img_size": list(network.img_size), "scale": resize, "batch_size": 8}
    known = {
        "ade20k": ("segbench.data.ade20k.ADE20K", "data/ADEChallengeData2016", 150),
        "cityscapes": ("segbench.data.cityscapes.Cityscapes", "data/cityscapes", 19),
    }
    class_path, root, number = known.get(network.dataset or "", ("", "", 0))
    if number == network.num_classes:
        data = {"class_path": class_path, "init_args": {"root": root, **common}}
    else:
        colors = {tuple(color) for color in palette}
        data = {
            "class_path": "segbench.data.folder.FolderDataModule",
            "init_args": {
                "root": f"data/{network.dataset or 'folder'}",
                "classes": list(names),
                # Masks may be painted in the palette, so equal colours are refused there.
                "palette": [list(color) for color in palette] if len(colors) == len(palette) else None,
                **common,
            },
        }
    return {
        "seed_everything": 0,
        "experiment": source.stem,
        "model": {"class_path": TASK, "init_args": network.init_args},
        "data": data,
        "trainer": {"precision": None},
    }

"""Shared by all tests, which are small, offline and write to temporary folders only."""

import os

# Tiny tensors gain nothing from threads, which wait for each other on a busy machine. Set before torch is
# imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from collections.abc import Callable
from typing import Any

import pytest
import torch

# Triton kernels are interpreted without a GPU. Triton reads the variable when it is first imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that downloads weights fails at once
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_SILENT", "true")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["SEGBENCH_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """Generates the twin of a dataset once, by overlay name or class, and returns the init_args for it."""
    from segbench.commands.synth.command import synth

    folder = tmp_path_factory.mktemp("twins")

    def options(dataset: str) -> dict[str, Any]:
        if dataset == "synthetic":  # generates itself
            return {"image_size": [64, 64], "num_images": {"train": 4, "val": 2, "test": 2}}
        if not (folder / dataset).is_dir():
            synth(dataset, folder / dataset, images=4, size=(64, 64))
        return {"root": str(folder / dataset)}

    return options

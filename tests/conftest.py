"""Shared by all tests: small, offline, and nothing written outside temporary folders."""

import os

# Tiny tensors gain nothing from threads, which on a busy machine wait for each other. Before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch

# Triton's kernels are interpreted where they cannot be compiled; it looks when it is imported, by whomever.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that reaches for weights fails at once
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_SILENT", "true")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["SEGBENCH_CACHE"] = str(tmp_path_factory.mktemp("cache"))

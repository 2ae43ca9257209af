"""Damaged files of every type are read, or refused in one line."""

import random

import numpy as np
import pytest
from mutations import damage_png, damage_tree
from run import fuzz
from targets import build, targets
from worker import failure_of


def _fail(error):
    raise error


def _spin():
    while True:
        pass


@pytest.mark.parametrize(
    ("read", "failure"),
    [
        (lambda: None, None),
        (lambda: _fail(ValueError("a.png: the file is damaged")), None),
        (lambda: _fail(ValueError("first\nsecond")), "a message of 2 lines"),
        (lambda: _fail(ValueError()), "a message of 0 lines"),
        (lambda: _fail(KeyError("step")), "KeyError: 'step'"),
        (lambda: _fail(SystemExit(0)), "SystemExit"),
        (_spin, "more than 0.1 s"),
    ],
)
def test_fuzzer_distinguishes_failures_from_refusals(read, failure):
    found = failure_of(read, seconds=0.1)
    assert (found is None) if failure is None else (failure in found)


def test_damage_is_reproducible(tmp_path):
    from PIL import Image

    path = tmp_path / "x.png"
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8)).save(path)
    tree = {"a": [1, {"b": "c"}], "d": None}
    for damage, whole in ((damage_png, path.read_bytes()), (damage_tree, tree)):
        first = [damage(whole, random.Random(seed)) for seed in range(20)]
        assert repr(first) == repr([damage(whole, random.Random(seed)) for seed in range(20)])
        assert sum(one != whole for one in first) >= 15
    assert tree == {"a": [1, {"b": "c"}], "d": None}


@pytest.mark.slow
def test_damaged_files_are_read_or_refused_in_one_line(tmp_path):
    build(tmp_path / "workshop")
    failures = fuzz(tmp_path / "workshop", list(targets()), count=300)
    assert not failures, "\n\n".join(
        f"{failure.target} {failure.number}: {failure.what}" for failure in failures
    )

"""Fingerprints of cache entries: equal in every process, different where results may differ."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from segbench.data.ade20k import ADE20K
from segbench.data.augment import StandardAugment
from segbench.data.folder_layout import FolderLayout
from segbench.data.io.decoded import DecodedFiles
from segbench.data.synthetic import SyntheticDataModule
from segbench.utils.fingerprint import fingerprint_fields, json_hash, short_hash


class Window:
    """An object with the default repr, which contains its address."""

    def __init__(self, size):
        self.size = size


@dataclass(frozen=True)
class WithWindow(FolderLayout):
    window: Window | None = None


def test_equal_objects_have_equal_fingerprints_and_different_ones_differ():
    assert fingerprint_fields(Window(3)) == fingerprint_fields(Window(3)) != fingerprint_fields(Window(4))
    assert "0x" not in str(fingerprint_fields(WithWindow(window=Window(3))))
    one = DecodedFiles(WithWindow(window=Window(3)))
    assert one._reader == DecodedFiles(WithWindow(window=Window(3)))._reader
    assert one._reader != DecodedFiles(WithWindow(window=Window(4)))._reader
    assert fingerprint_fields(ADE20K.layout) != fingerprint_fields(FolderLayout())


def test_order_matters_in_lists_but_not_in_mappings_and_sets():
    assert fingerprint_fields({"a": 1, 2: {3, 4}}) == fingerprint_fields({2: {4, 3}, "a": 1})
    assert fingerprint_fields([1, 2]) != fingerprint_fields([2, 1])
    assert fingerprint_fields({1: 2}) != fingerprint_fields({"1": 2})
    assert fingerprint_fields(np.float32(1.5)) == ["float32", 1.5]
    assert fingerprint_fields(Path("a") / "b") == "a/b"
    assert fingerprint_fields(np.sqrt.__class__) == "numpy.ufunc"
    assert fingerprint_fields(StandardAugment((4, 4), 255).fingerprint_fields()) == fingerprint_fields(
        StandardAugment((4, 4), 255, seed=1).fingerprint_fields()
    )


@pytest.mark.parametrize("thing", [lambda x: x, object(), Window(3).__init__])
def test_objects_without_a_stable_name_are_refused(thing):
    with pytest.raises(ValueError, match="has no fingerprint"):
        fingerprint_fields(thing)


def test_hashes_are_those_of_existing_caches():
    assert short_hash("segbench") == short_hash(b"segbench") == "8a739fa141cb911742e872f785743a91"
    assert (
        json_hash({"b": [1, None], "a": "é"}, 16)
        == json_hash({"a": "é", "b": [1, None]}, 16)
        == "8920de3941419361"
    )
    assert SyntheticDataModule().root.name == "synthetic-6a2d786ddd1a"  # of commit 73aba4d

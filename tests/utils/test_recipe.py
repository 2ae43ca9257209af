"""What a cache is told by must be the same in every process, and differ where results may."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from segbench.data.ade20k import ADE20K
from segbench.data.augment import StandardAugment
from segbench.data.folder_layout import FolderLayout
from segbench.data.io.decoded import DecodedFiles
from segbench.utils.fingerprint import fingerprint_fields


class Window:
    """An object without a repr of its own."""

    def __init__(self, size):
        self.size = size


@dataclass(frozen=True)
class WithWindow(FolderLayout):
    window: Window | None = None


def test_equal_objects_have_equal_recipes_and_others_do_not():
    assert fingerprint_fields(Window(3)) == fingerprint_fields(Window(3)) != fingerprint_fields(Window(4))
    assert "0x" not in str(fingerprint_fields(WithWindow(window=Window(3))))
    one = DecodedFiles(WithWindow(window=Window(3)))
    assert one._reader == DecodedFiles(WithWindow(window=Window(3)))._reader
    assert one._reader != DecodedFiles(WithWindow(window=Window(4)))._reader
    assert fingerprint_fields(ADE20K.layout) != fingerprint_fields(FolderLayout())


def test_order_counts_in_lists_but_not_in_mappings_and_sets():
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
def test_what_has_no_name_is_refused(thing):
    with pytest.raises(ValueError, match="cannot be written down"):
        fingerprint_fields(thing)

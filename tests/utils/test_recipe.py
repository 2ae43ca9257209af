"""What a cache is told by must be the same in every process, and differ where results may."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from segbench.data.ade20k import ADE20K
from segbench.data.augment import StandardAugment
from segbench.data.folder_layout import FolderLayout
from segbench.data.io.decoded import DecodedFiles
from segbench.utils.fingerprint import recipe


class Window:
    """An object without a repr of its own."""

    def __init__(self, size):
        self.size = size


@dataclass(frozen=True)
class WithWindow(FolderLayout):
    window: Window | None = None


def test_equal_objects_have_equal_recipes_and_others_do_not():
    assert recipe(Window(3)) == recipe(Window(3)) != recipe(Window(4))
    assert "0x" not in str(recipe(WithWindow(window=Window(3))))
    one = DecodedFiles(WithWindow(window=Window(3)))
    assert one._reader == DecodedFiles(WithWindow(window=Window(3)))._reader
    assert one._reader != DecodedFiles(WithWindow(window=Window(4)))._reader
    assert recipe(ADE20K.layout) != recipe(FolderLayout())


def test_order_counts_in_lists_but_not_in_mappings_and_sets():
    assert recipe({"a": 1, 2: {3, 4}}) == recipe({2: {4, 3}, "a": 1})
    assert recipe([1, 2]) != recipe([2, 1])
    assert recipe({1: 2}) != recipe({"1": 2})
    assert recipe(np.float32(1.5)) == ["float32", 1.5]
    assert recipe(Path("a") / "b") == "a/b"
    assert recipe(np.sqrt.__class__) == "numpy.ufunc"
    assert recipe(StandardAugment((4, 4), 255).recipe()) == recipe(
        StandardAugment((4, 4), 255, seed=1).recipe()
    )


@pytest.mark.parametrize("thing", [lambda x: x, object(), Window(3).__init__])
def test_what_has_no_name_is_refused(thing):
    with pytest.raises(ValueError, match="cannot be written down"):
        recipe(thing)

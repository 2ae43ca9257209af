"""Confusion counts of every single image, in memory and as `ledger.npz`; needs NumPy alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segbench.utils.arrays import check_npz
from segbench.utils.files import atomic_write


class Ledger(NamedTuple):
    """Sparse confusion matrices, one for each image.

    Attributes:
        names: One name for each image, in alphabetical order.
        offsets: `(n + 1,)` int64; the rows of image `i` are `offsets[i]` to `offsets[i + 1]`.
        rows: `(M, 3)` int64 of true class, predicted class and number of pixels.
    """

    names: tuple[str, ...]
    offsets: NDArray[np.int64]
    rows: NDArray[np.int64]

    def matrix(self, image: int, num_classes: int) -> NDArray[np.int64]:
        """Expands the counts of one image.

        Args:
            image: Its position in `names`.
            num_classes: `K`.

        Returns:
            `(K, K)` int64, rows truth, columns prediction.
        """
        return _dense(self.rows[self.offsets[image] : self.offsets[image + 1]], num_classes)

    def total(self, num_classes: int) -> NDArray[np.int64]:
        """Adds up the counts of all images.

        Args:
            num_classes: `K`.

        Returns:
            `(K, K)` int64, rows truth, columns prediction.
        """
        return _dense(self.rows, num_classes)


# Kind of number (of `numpy.dtype`) and number of dimensions of each array in the file.
_ARRAYS = {"names": ("U", 1), "class_names": ("U", 1), "split": ("U", 0), "offsets": ("i", 1), "rows": ("i", 2)}


class SavedLedger(NamedTuple):
    """What a ledger file holds.

    Attributes:
        ledger: The counts.
        split: `val` or `test`.
        class_names: `K` names.
    """

    ledger: Ledger
    split: str
    class_names: tuple[str, ...]


def save_ledger(path: Path, ledger: Ledger, split: str, class_names: Sequence[str]) -> None:
    """Writes a ledger; a file that is there already is replaced only when the new one is complete.

    Args:
        path: Where to.
        ledger: The counts.
        split: `val` or `test`.
        class_names: `K` names.

    Raises:
        ValueError: If a count belongs to a class without a name.
    """
    _check(path, ledger, len(class_names))
    names, offsets, rows = np.array(ledger.names, str), ledger.offsets, ledger.rows
    classes = np.array(class_names, str)
    with atomic_write(path) as draft, draft.open("wb") as file:
        np.savez_compressed(
            file, split=np.array(split), class_names=classes, names=names, offsets=offsets, rows=rows
        )


def load_ledger(path: Path) -> SavedLedger:
    """Reads a ledger.

    Args:
        path: Of a file that `save_ledger` wrote.

    Returns:
        Its content.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is not a ledger, or damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no ledger at {path}; validate or test the model to write it")
    arrays = _read(path)
    if missing := {"names", "offsets", "rows", "split", "class_names"} - arrays.keys():
        raise ValueError(f"{path} is not a ledger: it lacks {', '.join(sorted(missing))}")
    for name, (kind, dimensions) in _ARRAYS.items():
        if arrays[name].dtype.kind != kind or arrays[name].ndim != dimensions:
            raise ValueError(
                f"{path} is not a ledger or is damaged: {name} is {arrays[name].dtype} of "
                f"{arrays[name].ndim} dimensions"
            )
    ledger = Ledger(tuple(arrays["names"].tolist()), arrays["offsets"], arrays["rows"])
    class_names = tuple(arrays["class_names"].tolist())
    _check(path, ledger, len(class_names))
    return SavedLedger(ledger, str(arrays["split"]), class_names)


def _read(path: Path) -> dict[str, NDArray[Any]]:
    """Reads all arrays of a file, none of which may need pickle."""
    try:
        check_npz(path)
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (FileNotFoundError, MemoryError):
        raise
    except Exception as error:  # zipfile and NumPy's header reader raise whatever the damage leads them to
        raise ValueError(
            f"{path} is not a ledger or is damaged; validate or test the model to write it"
        ) from error


def _check(path: Path, ledger: Ledger, num_classes: int) -> None:
    """Refuses counts that do not fit together."""
    names, offsets, rows = ledger
    fits = rows.shape[1:] == (3,) and offsets.shape == (len(names) + 1,)
    if not fits or offsets[0] != 0 or offsets[-1] != len(rows) or (np.diff(offsets) < 0).any():
        raise ValueError(
            f"{path}: {len(names)} names, offsets and {len(rows)} rows of counts do not fit together"
        )
    if rows.size and rows.min() < 0:
        raise ValueError(f"{path}: holds a negative class id or count")
    if rows.size and rows[:, :2].max() >= num_classes:
        raise ValueError(f"{path}: holds class {rows[:, :2].max()}, but only {num_classes} classes have names")


def _dense(rows: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    """Adds rows `(truth, prediction, count)` into a matrix."""
    matrix = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(matrix, (rows[:, 0], rows[:, 1]), rows[:, 2])
    return matrix

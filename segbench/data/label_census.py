"""A look at some masks of each split before training: classes that never occur, splits without a label."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn
from numpy.typing import NDArray

from segbench.data.spec import DatasetSpec, Layout, Pair, Split, present_ids

_SAMPLE = 32  # masks that are read in any case: a second's work
_MOST = 1000  # and at most, while nothing but one class was found
_FEW_CLASSES = 20  # of more, a sample rarely shows all, and that is not a mistake
_SHOWN = 8
_DOCTOR = "`segbench doctor` with the same --config says what is wrong with the masks"

ReadIds = Callable[[Pair], NDArray[np.integer] | None]


class Census(NamedTuple):
    """What was found in the masks of a split.

    Attributes:
        looked: Masks that were read.
        total: Masks that there are.
        ids: What they hold, as in the files.
        labels: The same as training ids, ignored ones left out.
    """

    looked: int
    total: int
    ids: frozenset[int]
    labels: frozenset[int]


def check_labels(split: Split, pairs: Sequence[Pair], layout: Layout, spec: DatasetSpec) -> None:
    """Looks at masks of a split, and says what scores or training will suffer from.

    Args:
        split: To be trained or validated on.
        pairs: Its files.
        layout: Opens them.
        spec: Classes, and what ids mean.

    Raises:
        ValueError: If all masks of the training split were read, and no two classes have a pixel in them.
    """
    needed = 1 if split != "train" else min(2, spec.num_classes)
    found = take_census(pairs, _reader(layout), spec, needed)
    if not found.looked:
        return
    if split != "train":
        if not found.labels:
            rank_zero_warn(_describe_void(split, found, spec) + ": there will be no scores and no best.ckpt")
        return
    if not found.labels:
        told = _describe_void(split, found, spec) + f": there is nothing to learn; {_DOCTOR}"
    elif spec.num_classes == 1:
        rank_zero_warn(
            f"'{spec.classes[0]}' is the only class, so that every pixel is right from the start: name the"
            f" background as a class as well; {_DOCTOR}"
        )
        return
    else:
        told = _describe_absent(found, spec)
    if told and found.looked == found.total and len(found.labels) < needed:
        raise ValueError(told)
    if told:  # a rare class is worth a word, a single one a warning
        (rank_zero_info if len(found.labels) > 1 else rank_zero_warn)(told)


def take_census(pairs: Sequence[Pair], read_ids: ReadIds, spec: DatasetSpec, needed: int) -> Census:
    """Reads masks spread evenly over a split, and more while too few classes were seen.

    Args:
        pairs: Of the split; those whose mask cannot be read are left to who reads them next.
        read_ids: Opens a mask.
        spec: What ids mean.
        needed: Different classes with which the sample is enough.

    Returns:
        What was found.
    """
    sample = dict.fromkeys(index * len(pairs) // _SAMPLE for index in range(_SAMPLE))
    looked, ids, labels = 0, set[int](), set[int]()
    for index in (*sample, *(i for i in range(len(pairs)) if i not in sample)):
        if index not in sample and (len(labels) >= needed or looked >= _MOST):
            break
        try:
            mask = read_ids(pairs[index])
            present = present_ids(spec.decode(mask)) if mask is not None else None
        except (ValueError, OSError):
            continue
        if mask is None or present is None:
            continue
        looked += 1
        ids.update(map(int, present_ids(mask)))
        labels.update(map(int, present))
    return Census(looked, len(pairs), frozenset(ids), frozenset(labels - {spec.ignore_index}))


def _reader(layout: Layout) -> ReadIds:
    """Opens masks alone, where the layout has files of their own for them."""
    return layout.read_ids if type(layout).read is Layout.read else lambda pair: layout.read(pair)[1]


def _describe_void(split: Split, found: Census, spec: DatasetSpec) -> str:
    return (
        f"{split}: no pixel of {_masks(found)} has a class; they hold only {_listed(found.ids)}, which"
        f" mean{'s' if len(found.ids) == 1 else ''} no class (ignore_index {spec.ignore_index})"
    )


def _describe_absent(found: Census, spec: DatasetSpec) -> str:
    """Names the classes without a pixel, where that is more than chance; empty if there are none."""
    absent = [k for k in range(spec.num_classes) if k not in found.labels]
    all_read = found.looked == found.total
    if not absent or (len(found.labels) > 1 and not all_read and spec.num_classes > _FEW_CLASSES):
        return ""
    names = [f"'{spec.classes[k]}' (class {k})" for k in absent[:_SHOWN]]
    more = f" and {len(absent) - _SHOWN} more classes" if len(absent) > _SHOWN else ""
    line = f"train: {', '.join(names)}{more} {'have' if len(absent) > 1 else 'has'} no pixel in {_masks(found)}"
    if len(found.ids) <= _SHOWN:
        line += f"; they hold only {_listed(found.ids)}"
    ignored = [i for i in found.ids if int(spec.decode(np.array([[i]]))[0, 0]) == spec.ignore_index]
    if len(absent) == 1 and len(ignored) == 1:
        remap = {**spec.remap, ignored[0]: absent[0]}
        line += f": if {ignored[0]} means '{spec.classes[absent[0]]}', set --data.init_args.remap '{remap}'"
    return f"{line}; {_DOCTOR}"


def _masks(found: Census) -> str:
    if found.looked == found.total:
        return f"its {found.total} masks" if found.total > 1 else "its mask"
    return f"the {found.looked} of {found.total} masks that were looked at"


def _listed(ids: Iterable[int]) -> str:
    *first, last = map(str, sorted(ids))
    return f"{', '.join(first)} and {last}" if first else last

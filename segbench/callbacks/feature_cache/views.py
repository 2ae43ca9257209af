"""Views for the feature cache: augmented training images that depend on no seed of training."""

import hashlib
import os
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from segbench.data.base import SegmentationDataModule, SegmentationDataset
from segbench.data.loading.sampling import SampleIndex
from segbench.utils.fingerprint import fingerprint_fields

VIEW_SEED = 0  # one for all, so that runs with any data.seed find the same views in the cache
# Pixels may change with them.
PACKAGES = ("albumentations", "opencv-python-headless", "numpy", "pillow", "simplejpeg", "tifffile")


def view(image: int, number: int, num_images: int) -> SampleIndex:
    """Names a view by a draw of its own.

    Args:
        image: Place of the image.
        number: Of the view; a larger number of views begins with those of a smaller one.
        num_images: Images of the split.

    Returns:
        The draw.
    """
    return SampleIndex(image, number * num_images + image, number)


def view_dataset(data: SegmentationDataModule) -> SegmentationDataset:
    """Lists the training images once more, to be asked for views.

    Args:
        data: The dataset.

    Returns:
        Its items at `view(…)` depend on nothing else.
    """
    train = data.dataset("train")
    augment = data.augment.reseeded(VIEW_SEED)
    return SegmentationDataset(train.pairs, train.spec, train.read_files, augment, train.read_ids)


def view_recipe(data: SegmentationDataModule) -> dict[str, Any]:
    """Writes down what the pixels of views depend on.

    Files are told apart by path below the root, size and time, not by their content; code of transforms and
    datasets is not looked into.

    Args:
        data: The dataset.

    Returns:
        Plain values.

    Raises:
        ValueError: If a transform cannot be written down.
    """
    pairs, spec = data.dataset("train").pairs, data.spec
    files = hashlib.sha256()
    for pair in pairs:
        files.update(repr(pair.name).encode())
        for path in filter(None, (pair.image, pair.label)):
            status = path.stat()
            stamp = (os.path.relpath(path, data.root), status.st_size, status.st_mtime_ns)
            files.update(repr(stamp).encode())
    try:
        transforms, layout = (
            fingerprint_fields(data.augment.fingerprint_fields()),
            fingerprint_fields(data.layout),
        )
    except ValueError as error:
        raise ValueError(
            f"cache_features: {error}, so that one can tell whose cached views are, or set cache_features 0"
        ) from None
    return {
        "dataset": _name(data),
        "images": len(pairs),
        "files": files.hexdigest(),
        "layout": layout,
        "reduced_decode": data.reduced_decode,
        "labels": [spec.num_classes, spec.ignore_index, spec.complete, sorted(spec.remap.items())],
        "transforms": [_name(data.augment), transforms],
        "seed": VIEW_SEED,
        "versions": {name: package_version(name) for name in PACKAGES},
    }


def package_version(package: str) -> str | None:
    """Looks up the version of an installed package; None where it is known by another name."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _name(thing: object) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"

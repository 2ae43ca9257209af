"""`segbench synth`: a dataset's synthetic twin, in the layout of the real one."""

from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

if TYPE_CHECKING:
    from segbench.data.base import SegmentationDataModule

_LARGEST = 8192  # pixels of a side; scenes are drawn in memory


def synth(dataset: str, root: Path, images: int = 8, size: tuple[int, int] = (256, 256), seed: int = 0) -> None:
    """Writes drawn scenes where the files of a dataset lie, named, numbered and stored as they are.

    Args:
        dataset: File in segbench/data, such as ade20k or cityscapes; or the dotted path of a data module.
        root: Folder to be made; an empty one may be there.
        images: Number of images of each split that has files of its own.
        size: Height and width of the images.
        seed: Another seed gives other scenes.

    Raises:
        FileExistsError: If `root` holds something already.
        ValueError: If the dataset is unknown, or a number out of range.
    """
    from segbench.data.synthetic import own_places, write_synthetic

    data = find(dataset)
    if images < 1 or min(size) < 8 or max(size) > _LARGEST or seed < 0:
        raise ValueError(
            f"images={images}, size={list(size)}, seed={seed}: give at least 1 image, 8 to {_LARGEST} pixels"
            " and no negative seed"
        )
    counts = dict.fromkeys(own_places(data.layout), images)
    write_synthetic(root, data.spec, data.layout, counts, size, seed)
    print(f"{images} images each of {', '.join(counts)} are in {root}")


def find(name: str) -> "type[SegmentationDataModule]":
    """Finds a data module whose classes and layout are known without data.

    Args:
        name: Of its file in segbench/data, or its dotted path.

    Returns:
        The class.

    Raises:
        ValueError: If there is none.
    """
    import inspect
    import pkgutil
    from importlib import import_module

    import segbench.data
    from segbench.data.base import SegmentationDataModule

    def has_twin(cls: object) -> TypeGuard[type[SegmentationDataModule]]:
        return inspect.isclass(cls) and issubclass(cls, SegmentationDataModule) and hasattr(cls, "spec")

    if "." in name and all(map(str.isidentifier, name.split("."))):
        module, _, attribute = name.rpartition(".")
        try:
            cls = getattr(import_module(module), attribute, None)
        except ImportError as error:
            raise ValueError(f"dataset {name}: {error}") from None
        if not has_twin(cls):
            raise ValueError(f"dataset {name} is not a data module with a spec and a layout of its own")
        return cls
    found: dict[str, type[SegmentationDataModule]] = {}
    for file in pkgutil.iter_modules(segbench.data.__path__):
        module_of = import_module(f"segbench.data.{file.name}")
        for _, cls in inspect.getmembers(module_of, has_twin):
            if cls.__module__ == module_of.__name__:
                found[file.name] = cls
    if name not in found:
        raise ValueError(f"unknown dataset '{name}'; choose {', '.join(found)}, or a dotted path")
    return found[name]

"""`segbench synth`: writes a synthetic twin of a dataset, in the layout of the real one."""

from pathlib import Path


def synth(dataset: str, root: Path, images: int = 8, size: tuple[int, int] = (256, 256), seed: int = 0) -> None:
    """Writes synthetic scenes with the names, numbering and formats of a dataset's files.

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
    from segbench.data.synthetic import find_dataset, write_twin

    splits = write_twin(find_dataset(dataset), root, images, size, seed)
    print(f"{images} images each of {', '.join(splits)} are in {root}")

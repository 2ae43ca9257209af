"""Between images and sequences of raw patches, each patch a vector in (row, column, channel) order."""

from torch import Tensor


def image_to_patches(image: Tensor, patch_size: int) -> Tensor:
    """Cuts an image into square patches, row by row.

    Args:
        image: `(B, C, H, W)`, both sides multiples of `patch_size`.
        patch_size: `P`.

    Returns:
        `(B, N, P·P·C)`.
    """
    batch, channels, height, width = image.shape
    rows, columns = height // patch_size, width // patch_size
    cut = image.reshape(batch, channels, rows, patch_size, columns, patch_size)  # (B, C, h, P, w, P)
    return cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def patches_to_image(patches: Tensor, grid: tuple[int, int], patch_size: int) -> Tensor:
    """Puts patches back where they were cut out; the inverse of `image_to_patches`.

    Args:
        patches: `(B, N, P·P·C)`.
        grid: `(h, w)` with `h · w = N`.
        patch_size: `P`.

    Returns:
        `(B, C, h·P, w·P)`.
    """
    cut = patches.reshape(patches.shape[0], *grid, patch_size, patch_size, -1)  # (B, h, w, P, P, C)
    return cut.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def pixels_in_patch_order(patches: Tensor, grid: tuple[int, int], patch_size: int) -> Tensor:
    """Writes all pixels, one patch after another, into the rows of an image: a reshape, and no unfolding.

    Args:
        patches: As in `patches_to_image`.
        grid: As in `patches_to_image`.
        patch_size: As in `patches_to_image`.

    Returns:
        `(B, C, h·P, w·P)`. Where the image is `P·P` pixels wide, every row is one patch.
    """
    height, width = (side * patch_size for side in grid)
    return patches.reshape(patches.shape[0], height, width, -1).permute(0, 3, 1, 2)

"""Refuses images that a model would see as something else than they are, such as floats in [0, 1]."""

import torch
from torch import Tensor

_EXPECTED = "expected is an RGB batch (B, 3, H, W) of 0 to 255, uint8 or float"


def check_image(image: object) -> Tensor:
    """Checks type, shape and range of what a caller hands to a trained model.

    Bytes are not looked at, so that evaluation never waits for its device.

    Args:
        image: Should be `(B, 3, H, W)` RGB on the 0..255 scale.

    Returns:
        The same; integers of other types as uint8.

    Raises:
        ValueError: If it is anything else; names what is expected, and how to get there.
    """
    if not isinstance(image, Tensor):
        raise ValueError(
            f"image is a {type(image).__module__}.{type(image).__name__}; {_EXPECTED}, as from"
            " torch.from_numpy(numpy.array(image.convert('RGB'))).permute(2, 0, 1)[None] of a Pillow image"
        )
    _check_shape(image)
    if image.dtype == torch.uint8:
        return image
    if image.dtype == torch.bool or image.is_complex():
        raise ValueError(f"image is of type {image.dtype}; {_EXPECTED}")
    is_float = image.is_floating_point()
    values = image.detach()
    low, high = (float(value) for value in torch.aminmax(values.double() if is_float else values.long()))
    found = f"image is of type {image.dtype} with values from {low:g} to {high:g}; {_EXPECTED}"
    if not low <= high < float("inf") or low == float("-inf"):
        raise ValueError(f"image holds NaN or infinite values; {_EXPECTED}")
    if low < 0:
        raise ValueError(f"{found}: do not normalize it, the model does that itself")
    if high > 255:
        raise ValueError(f"{found}: scale it, as by image / 257 where it has 16 bits")
    if is_float and 0 < high <= 1:
        raise ValueError(f"{found}: multiply an image in [0, 1], as torchvision's ToTensor gives it, by 255")
    return image if is_float else image.to(torch.uint8)


def _check_shape(image: Tensor) -> None:
    shape = tuple(image.shape)
    if image.dim() == 4 and shape[1] == 3 and image.numel():
        return
    remedy = ""
    if image.dim() == 3 and shape[0] == 3:
        remedy = ": add the batch by image[None]"
    elif image.dim() == 3 and shape[2] == 3:
        remedy = ": channels come first, image.permute(2, 0, 1)[None]"
    elif image.dim() == 4 and shape[3] == 3:
        remedy = ": channels come before height, image.permute(0, 3, 1, 2)"
    elif image.dim() == 4 and shape[1] == 1:
        remedy = ": repeat a grey channel by image.expand(-1, 3, -1, -1)"
    elif image.dim() == 4 and shape[1] == 4:
        remedy = ": leave the fourth channel out by image[:, :3]"
    raise ValueError(f"image must be a batch (B, 3, H, W), got {shape}; {_EXPECTED}{remedy}")

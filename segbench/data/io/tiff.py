"""TIFF can hold nearly anything: what has one meaning as an image or as a mask is read, the rest is refused.

tifffile returns the samples as they are stored. OpenCV and Pillow return other ones without an error: OpenCV
repeats the first band of three where the photometric tag says grey, and multiplies colours by unassociated
alpha.
"""

import io
import logging
from enum import IntEnum
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from tifffile import COMPRESSION as CODEC
from tifffile import PHOTOMETRIC as COLOR

from segbench.data.io.formats import UnsupportedImageError
from segbench.data.io.pixels import ORIENTATION, Pixels, check_size, opened, turned

_LOSSLESS = {CODEC.NONE, CODEC.LZW, CODEC.ADOBE_DEFLATE, CODEC.DEFLATE, CODEC.PACKBITS, CODEC.LZMA, CODEC.ZSTD}
_LOSSLESS |= {CODEC.CCITTRLE, CODEC(3), CODEC(4), CODEC.PNG}  # 3 and 4 are fax groups, whose names changed
_GREY = {COLOR.MINISWHITE, COLOR.MINISBLACK}
_ALPHA = {1, 2}  # of the tag ExtraSamples: premultiplied or not
_LARGEST_ID = 2.0**32
_MASK_PAGE = 4  # of the tag NewSubfileType

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # what is wrong with a file is raised


def read_colors(data: bytes) -> Pixels:
    """Reads an image; of several bands the first three are red, green and blue.

    Args:
        data: The file.

    Returns:
        `(H, W)` grey or `(H, W, 3)` RGB, uint8, or uint16 of 16 bits.

    Raises:
        UnsupportedImageError: If bands, number type or colour space have no single meaning as an image.
    """
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = _only_page(file, len(data))
        return _colors(page, data)


def read_ids(data: bytes) -> NDArray[np.integer]:
    """Reads a mask.

    Args:
        data: The file.

    Returns:
        `(H, W)` ids as stored; of a palette the indices.

    Raises:
        UnsupportedImageError: If it does not hold one integer for each pixel.
    """
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = _only_page(file, len(data))
        if page.compression not in _LOSSLESS:
            raise UnsupportedImageError(
                f"is a TIFF compressed by {_name(CODEC, page.compression)}, which may change class ids: save"
                " masks as PNG"
            )
        if page.samplesperpixel != 1 or page.photometric not in {*_GREY, COLOR.PALETTE, COLOR.MASK}:
            raise _not_ids(f"{_bands(page)}, {_name(COLOR, page.photometric)}")
        if page.dtype is None or page.dtype.kind not in "buif":
            raise _not_ids(str(page.dtype))
        if page.photometric == COLOR.MINISWHITE and page.bitspersample > 1:
            raise UnsupportedImageError(
                "holds inverted grey values (WhiteIsZero), so that the ids are ambiguous: save the mask as PNG"
            )
        array = _samples(page, data)
    if array.dtype == bool:
        return np.asarray(array != (page.photometric == COLOR.MINISWHITE), np.uint8)
    return _whole(array) if array.dtype.kind == "f" else np.asarray(array)


def _whole(array: NDArray[np.floating]) -> NDArray[np.integer]:
    """Makes integers of floating-point ids, as tools that burn polygons into rasters write them."""
    if missing := int(np.count_nonzero(np.isnan(array))):
        raise UnsupportedImageError(
            f"holds NaN in {missing} pixels: write a number there, such as -1, and name it in ignore"
        )
    fractions = (array != np.rint(array)) | (np.abs(array) > _LARGEST_ID)
    if fractions.any():
        raise _not_ids(f"{array.dtype}, such as {array[fractions][0]:.6g}")
    return array.astype(np.int64)


def bits_per_sample(data: bytes) -> int:
    """Returns the bits of the widest sample; 8 for floating-point ones, all of which count."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        return 8 if page.dtype is None or page.dtype.kind == "f" else int(np.max(page.bitspersample))


def _only_page(file: tifffile.TiffFile, size: int) -> tifffile.TiffPage:
    """Returns the one page that is an image, and checks that it is all there."""
    pages = [page for page in file.pages if isinstance(page, tifffile.TiffPage)]
    page = pages[0]
    if page.is_reduced:
        raise UnsupportedImageError("begins with a thumbnail, as camera raw files do: convert it to PNG")
    large = [
        other
        for other in pages
        if not other.is_reduced
        and not other.subfiletype & _MASK_PAGE
        and other.imagewidth >= page.imagewidth
        and other.imagelength >= page.imagelength
    ]
    if len(large) > 1:
        raise UnsupportedImageError(f"holds {len(large)} pages: save each image in a file of its own")
    if page.imagedepth > 1:
        raise UnsupportedImageError(f"holds a volume of {page.imagedepth} slices: save each slice as an image")
    check_size(page.imagewidth, page.imagelength, page.samplesperpixel)
    ends = [offset + count for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)]
    if not ends or max(ends) > size:
        raise ValueError(f"data ends at byte {max(ends, default=0)}, the file at {size}")
    return page


def _colors(page: tifffile.TiffPage, data: bytes) -> Pixels:
    bands, space = page.samplesperpixel, page.photometric
    if (space, bands, page.bitspersample) in {(COLOR.YCBCR, 3, 8), (COLOR.SEPARATED, 4, 8)}:
        with opened(data) as image:
            return np.asarray(image.convert("RGB"))
    if space == COLOR.PALETTE and bands == 1 and page.colormap is not None:
        table = page.colormap if page.colormap.max(initial=0) < 256 else page.colormap >> 8  # (3, n)
        return np.ascontiguousarray(table.T.astype(np.uint8)[_samples(page, data)])
    if space not in {*_GREY, COLOR.RGB}:
        raise UnsupportedImageError(f"holds {_name(COLOR, page.photometric)} colours: convert it to RGB")
    if space == COLOR.RGB and bands >= 3:
        used = 3
    elif bands == 1 or (bands == 2 and set(page.extrasamples) <= _ALPHA and page.extrasamples):
        used = 1
    elif bands in {3, 4} and space == COLOR.MINISBLACK:  # as GDAL writes red, green, blue, near infrared
        used = 3
    else:
        raise UnsupportedImageError(
            f"has {_bands(page)}, so that red, green and blue are unknown: save these three alone, as by"
            " `gdal_translate -b 1 -b 2 -b 3`"
        )
    array: NDArray[Any] = _narrow(page, _samples(page, data))
    if space == COLOR.MINISWHITE:
        array = ~array
    if array.ndim == 3:
        array = np.ascontiguousarray(array[..., 0] if used == 1 else array[..., :3])
    return array


def _samples(page: tifffile.TiffPage, data: bytes) -> NDArray[Any]:
    """Decodes a page, turned as its orientation tag says: all readers of TIFF but tifffile do that.

    Returns:
        `(H, W)` or `(H, W, bands)` as stored, in the byte order of this machine.
    """
    try:
        array = page.asarray()
    except (ValueError, NotImplementedError, ImportError) as error:
        if "imagecodecs" not in str(error) and not isinstance(error, ImportError):
            raise
        return _by_pillow(page, data)
    if page.axes.startswith("S"):  # one band after the other
        array = np.moveaxis(array, 0, -1)
    tag = page.tags.get(ORIENTATION)
    return turned(np.asarray(array, array.dtype.newbyteorder("=")), tag.value if tag else 1)


def _by_pillow(page: tifffile.TiffPage, data: bytes) -> NDArray[Any]:
    """Decodes what tifffile needs imagecodecs for, where Pillow returns the samples as they are stored."""
    bits, bands, kind = page.bitspersample, page.samplesperpixel, page.dtype.kind if page.dtype else ""
    plain = (bits, kind) in {(1, "b"), (8, "u"), (16, "u"), (16, "i"), (32, "i"), (32, "f")}
    inverted = page.photometric == COLOR.MINISWHITE
    same = bands == 1 and plain and (not inverted or bits == 1)
    # Pillow divides by alpha where that is premultiplied.
    is_rgb = page.photometric == COLOR.RGB and 1 not in page.extrasamples
    same |= bands in {3, 4} and bits == 8 and is_rgb
    if not same:
        raise UnsupportedImageError(
            f"needs imagecodecs to be decoded ({_name(CODEC, page.compression)}, {_bands(page)}, {bits} bits):"
            " pip install 'segbench[tiff]'"
        )
    with opened(data) as image:
        array = np.asarray(image)
    return ~array if inverted else array  # Pillow has turned black into 0


def _narrow(page: tifffile.TiffPage, array: NDArray[Any]) -> Pixels:
    """Scales samples to bytes, all but those of 16 bits; refuses those whose black and white are unknown."""
    bits = page.bitspersample
    if array.dtype == bool:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind == "u" and isinstance(bits, int) and bits <= 16:
        if bits in {8, 16}:
            return np.asarray(array)
        wide = array.astype(np.uint32)
        return np.asarray(wide >> (bits - 8) if bits > 8 else wide * 255 // (2**bits - 1), np.uint8)
    low, high = (array.min(), array.max()) if array.size else (0, 0)
    if array.dtype.kind == "f" and low >= 0 and high <= 1:
        return np.asarray(np.rint(array.astype(np.float32) * 255), np.uint8)
    meant = "; floating-point images are read where all values lie in [0, 1]" if array.dtype.kind == "f" else ""
    raise UnsupportedImageError(
        f"holds {array.dtype} values from {low:.6g} to {high:.6g}, of which black and white are unknown{meant}:"
        " scale them to 0..255 and save them with 8 bits"
    )


def _bands(page: tifffile.TiffPage) -> str:
    return f"{page.samplesperpixel} band{'s' if page.samplesperpixel > 1 else ''}"


def _name(kind: type[IntEnum], value: int) -> str:
    """Names what a tag says, the number where tifffile has no name for it."""
    return next((member.name for member in kind if member == value), str(value))


def _not_ids(what: str) -> UnsupportedImageError:
    return UnsupportedImageError(
        f"holds colours or fractions ({what}), not class ids: save it as a grey or palette PNG with one id per"
        " pixel"
    )

"""PNG's own checks: neither OpenCV nor Pillow looks at the checksums of pixel data."""

import zlib
from typing import NamedTuple

from segbench.data.io.formats import UnsupportedImageError


class PNGHeader(NamedTuple):
    """What the first chunk says.

    Attributes:
        width: Of the image.
        height: Of the image.
        bits: Of each sample.
        color: Colour type: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGB and alpha.
    """

    width: int
    height: int
    bits: int
    color: int


def check_png(data: bytes) -> PNGHeader:
    """Checks the checksum of each chunk that says what the pixels are, and that the last chunk is there.

    What follows the last chunk is ignored, as all readers do. Tools that edit resolution, time or text in place
    leave wrong checksums there, and the pixels are sound.

    Args:
        data: The file, which begins as a PNG does.

    Returns:
        Its header.

    Raises:
        ValueError: If the file is damaged or cut short; names the chunk.
        UnsupportedImageError: If it is animated.
    """
    view, place, header = memoryview(data), 8, None
    while place + 12 <= len(data):
        length = int.from_bytes(view[place : place + 4])
        kind, end = bytes(view[place + 4 : place + 8]), place + 8 + length
        if end + 4 > len(data):
            break
        matters = kind.isupper() or kind == b"tRNS" or header is None
        if matters and zlib.crc32(view[place + 4 : end]) != int.from_bytes(view[end : end + 4]):
            raise ValueError(f"wrong checksum of {kind.decode('latin-1')!r} at byte {place}")
        if header is None:
            if kind != b"IHDR" or length != 13:
                break
            size = view[place + 8 : end]
            header = PNGHeader(int.from_bytes(size[:4]), int.from_bytes(size[4:8]), size[8], size[9])
        elif kind == b"acTL" and int.from_bytes(view[place + 8 : place + 12]) > 1:
            raise UnsupportedImageError("is animated: save the frame that is meant as an image")
        elif kind == b"IEND":
            return header
        place = end + 4
    raise ValueError("the last chunk is missing")

"""JPEG by libjpeg-turbo whose warnings are errors, but for those that leave no doubt about the pixels.

Phones, scanners and cameras write files that break the format's letter while all pixels are there. These are
brought into order, and then decoded as strictly as any other: libjpeg tells its first warning alone, behind
which damage would go unseen.
"""

import re

import numpy as np
import simplejpeg
from numpy.typing import NDArray

_MOST_PADDING = 4  # bytes between the last pixel and the end, which some cameras leave
_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")  # those in front of a segment, and the end of the file
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL = {0xC0, 0xC1}
_END, _SCAN, _JFIF, _ADOBE = 0xD9, 0xDA, 0xE0, 0xEE


def checked_jpeg(data: bytes, height: int, width: int) -> NDArray[np.uint8]:
    """Decodes a JPEG unless data are missing or make no sense.

    Args:
        data: The file.
        height: The smallest of libjpeg's sizes (eighths) that is not below this is returned.
        width: Likewise.

    Returns:
        `(h, w, 3)` RGB.

    Raises:
        ValueError: If libjpeg warns of damage; says what it says.
    """
    try:
        return np.asarray(simplejpeg.decode_jpeg(data, "RGB", min_height=height, min_width=width))
    except ValueError:
        data = _in_order(data)
    try:
        return np.asarray(simplejpeg.decode_jpeg(data, "RGB", min_height=height, min_width=width))
    except ValueError as error:
        padding = re.search(r"(\d+) extraneous bytes before marker 0xd9", str(error))
        if padding is None or int(padding[1]) > _MOST_PADDING:
            raise
        image = simplejpeg.decode_jpeg(data, "RGB", min_height=height, min_width=width, strict=False)
        return np.asarray(image)


def _in_order(data: bytes) -> bytes:
    """Corrects what changes no pixel: version, unknown colour space, parameters of scans, zeros in between."""
    fixed, place, frame, in_scan = bytearray(data[:2]), 2, 0, False
    while found := _MARKER.search(data, place):
        kind, start = data[found.start() + 1], found.start()
        before = data[place:start].rstrip(b"\0") if kind == _END or not in_scan else data[place:start]
        if before.endswith(b"\xff"):  # no marker: FF 00 is a byte of pixels
            before += b"\0"
        fixed += before
        if kind == _END:
            return bytes(fixed + data[start:])
        place = start + 2 + int.from_bytes(data[start + 2 : start + 4])
        segment = bytearray(data[start:place])
        if kind in _FRAMES:
            frame = kind
        elif kind == _SCAN:
            in_scan = True
            if frame in _SEQUENTIAL:
                segment[-3:] = b"\0\x3f\0"  # all coefficients, exactly: nothing else is possible
        elif kind == _JFIF and segment[4:9] == b"JFIF\0":
            segment[9:10] = b"\1"
        elif kind == _ADOBE and segment[4:9] == b"Adobe" and segment[15:16] > b"\2":
            segment[15:16] = b"\1"  # YCbCr, for which libjpeg takes it
        fixed += segment
    return bytes(fixed + data[place:])

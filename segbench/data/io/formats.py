"""The image formats that are read: one list for data modules, the doctor and `segment`."""

from typing import Literal

JPEG_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif"})
SUFFIXES = JPEG_SUFFIXES | {
    *(".png", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".gif"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif", ".heic", ".heif", ".hif"),
}
"""What the names of images and masks end in, in lower case."""

MOST_PIXELS = 2**30
"""The largest image that is decoded, 3 GiB in RGB: OpenCV's own limit. A file that claims more is refused."""

Format = Literal["AVIF", "BMP", "GIF", "HEIF", "JPEG", "JPEG 2000", "PNG", "PNM", "TIFF", "WebP"]

LOSSY: frozenset[Format] = frozenset({"AVIF", "HEIF", "JPEG", "JPEG 2000"})
"""Formats in which a mask would not hold the ids that were saved."""

_SIGNATURES: tuple[tuple[bytes, Format], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),  # BigTIFF
    (b"MM\0+", "TIFF"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),  # a bare codestream
)
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}


class UnsupportedImageError(ValueError):
    """The file is intact, but holds something that cannot be read exactly."""


class DamagedImageError(ValueError):
    """The file is damaged, truncated, or not an image."""


def format_of(data: bytes) -> Format | None:
    """Returns the format by the first bytes, whatever the file is called."""
    for signature, name in _SIGNATURES:
        if data.startswith(signature):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data[:1] == b"P" and data[1:2] in b"123456" and data[2:3].isspace():
        return "PNM"
    if data[4:8] == b"ftyp":
        brands = data[8 : min(int.from_bytes(data[:4]), 256)]
        found = {brands[i : i + 4] for i in range(0, len(brands), 4)}
        if found & {b"avif", b"avis"}:
            return "AVIF"
        if found & _HEIF_BRANDS:
            return "HEIF"
    return None


def is_lossy(data: bytes) -> bool:
    """Returns whether a file is in a format that does not keep pixels as they were saved."""
    return format_of(data) in LOSSY or (data[8:12] == b"WEBP" and b"VP8 " in data[12:64])

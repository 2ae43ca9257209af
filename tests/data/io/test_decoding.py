"""Images and masks of all formats, as phones, sensors and damaged disks leave them."""

import io
import struct
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg
import tifffile
from PIL import Image, features

from segbench.data.io import pixels
from segbench.data.io.decoding import decode_image, decode_mask, jpeg_size
from segbench.data.io.files import read_image, read_mask, read_painted
from segbench.data.io.formats import SUFFIXES, DamagedImageError, UnsupportedImageError
from segbench.data.io.listing import list_files

RNG = np.random.default_rng(0)
SMOOTH = np.stack(np.broadcast_arrays(np.arange(96)[:, None] * 2, np.arange(128) * 2, 90), -1).astype(np.uint8)
NOISE = np.clip(SMOOTH + RNG.integers(-20, 21, SMOOTH.shape), 0, 255).astype(np.uint8)
IDS = RNG.integers(0, 12, (12, 16)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
ANY = Path("a.any")
CV2_MEMORY = cv2.error("OpenCV(5) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 99 bytes")

# What each name is saved as, and whether pixels stay as they are.
FORMATS = {
    "jpe": ("JPEG", False),
    "JFIF": ("JPEG", False),
    "png": ("PNG", True),
    "dib": ("DIB", True),
    "BMP": ("BMP", True),
    "TIF": ("TIFF", True),
    "webp": ("WEBP", False),
    "ppm": ("PPM", True),
    "jp2": ("JPEG2000", True),
    "avif": ("AVIF", False),
}


def saved(array, kind, **options):
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **options)
    return file.getvalue()


def png_chunks(data):
    """Lists kind, start and end of each chunk."""
    found, place = [], 8
    while place < len(data):
        end = place + 12 + struct.unpack(">I", data[place : place + 4])[0]
        found.append((data[place + 4 : place + 8], place, end))
        place = end
    return found


@pytest.mark.parametrize("suffix", FORMATS)
def test_each_format_is_listed_and_read(tmp_path, suffix):
    kind, exact = FORMATS[suffix]
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(saved(SMOOTH, kind))
    assert list(list_files(tmp_path).values()) == [path]
    assert np.abs(read_image(path).astype(int) - SMOOTH).mean() < (1e-9 if exact else 4)


def test_grey_and_gif(tmp_path):
    for name in ("a.gif", "b.pgm", "c.bmp"):
        Image.fromarray(IDS).save(tmp_path / name)
        assert np.array_equal(read_mask(tmp_path / name), IDS)
        assert np.array_equal(read_image(tmp_path / name), np.repeat(IDS[..., None], 3, 2))
    Image.fromarray(IDS > 5).save(tmp_path / "d.pbm")
    assert np.array_equal(read_mask(tmp_path / "d.pbm"), IDS > 5)


@pytest.mark.parametrize("largest", [11, 100, 255, 300, 65535])
def test_a_pgm_of_any_largest_value_holds_ids(largest):
    kind = ">u2" if largest > 255 else "u1"
    data = f"P5 128 96 {largest}\n".encode() + IDS.astype(kind).tobytes()
    assert np.array_equal(decode_mask(ANY, data), IDS)


def test_heif_is_read_or_names_its_extra(monkeypatch):
    heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    heif.from_pillow(Image.fromarray(SMOOTH)).save(file, quality=95)
    assert np.abs(decode_image(ANY, file.getvalue()).astype(int) - SMOOTH).mean() < 4
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    with pytest.raises(UnsupportedImageError, match=r"a\.any is a HEIF image.*pip install 'segbench\[heif\]'"):
        decode_image(ANY, file.getvalue())


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_animations_are_refused(kind):
    frames = [Image.fromarray(SMOOTH), Image.fromarray(255 - SMOOTH)]
    file = io.BytesIO()
    frames[0].save(file, kind, save_all=True, append_images=frames[1:])
    with pytest.raises(UnsupportedImageError, match=r"a\.any is animated"):
        decode_image(ANY, file.getvalue())


@pytest.mark.parametrize("kind", ["JPEG", "JPEG2000", "AVIF", "WEBP"])
def test_masks_of_lossy_formats_are_refused(kind):
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    with pytest.raises(UnsupportedImageError, match=r"a\.any holds a lossy .*changes class ids"):
        decode_mask(ANY, saved(IDS, kind))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_turns_all_formats_alike(kind, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    options = {"quality": 98} if kind != "PNG" else {}
    image = decode_image(ANY, saved(SMOOTH, kind, exif=exif, **options))
    assert np.abs(image.astype(int) - pixels.turned(SMOOTH, orientation)).mean() < 3


# -- damage --


@pytest.mark.parametrize("ids", [IDS, IDS.astype(np.uint16)], ids=["8 bits", "16 bits"])
def test_each_flipped_bit_of_a_png_is_found(ids, capfd):
    data = saved(ids, "PNG")
    for place in range(8, len(data), 3):
        bad = bytearray(data)
        bad[place] ^= 1 << (place % 8)
        with pytest.raises(DamagedImageError, match=r"a\.any is damaged or cut short"):
            decode_mask(ANY, bytes(bad))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["image", "palette mask", "16 bits"])
def test_the_message_names_the_chunk_whose_checksum_is_wrong(kind):
    image = Image.fromarray(IDS)
    if kind == "palette mask":
        image.putpalette(list(range(256)) * 3)
    file = io.BytesIO()
    (Image.fromarray(NOISE) if kind == "image" else image).save(file, "PNG")
    data = bytearray(file.getvalue())
    start = next(start for name, start, _ in png_chunks(data) if name == b"IDAT")
    data[start + 20] ^= 4
    for decode in (decode_image,) if kind == "image" else (decode_image, decode_mask):
        with pytest.raises(DamagedImageError, match=r"wrong checksum of 'IDAT' at byte \d+"):
            decode(ANY, bytes(data))


def test_png_pixel_data_that_end_early_are_found():
    """All checksums are right: the writer was stopped."""
    data = saved(NOISE, "PNG")
    chunks = png_chunks(data)
    packed = b"".join(data[start + 8 : end - 4] for name, start, end in chunks if name == b"IDAT")
    rows = zlib.decompress(packed)
    for short in (zlib.compress(rows[: len(rows) // 2]), packed[: len(packed) // 2]):
        body = b"IDAT" + short
        chunk = struct.pack(">I", len(short)) + body + struct.pack(">I", zlib.crc32(body))
        header = next(data[:end] for name, _, end in chunks if name == b"IHDR")
        bad = header + chunk + data[-12:]
        with pytest.raises(DamagedImageError):
            decode_image(ANY, bad)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}])
def test_a_jpeg_without_its_middle_is_found(options, capfd):
    data = saved(NOISE, "JPEG", quality=85, **options)
    start = len(data) // 4
    for length in (len(data) // 10, len(data) // 2):
        with pytest.raises(DamagedImageError, match=r"a\.any is damaged or cut short"):
            decode_image(ANY, data[:start] + data[start + length :])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_whole_jpegs_are_what_opencv_reads(mode, subsampling):
    file = io.BytesIO()
    Image.fromarray(NOISE[:95, :127]).convert(mode).save(file, "JPEG", quality=90, subsampling=subsampling)
    expected = cv2.imdecode(np.frombuffer(file.getvalue(), np.uint8), cv2.IMREAD_COLOR_RGB)
    assert np.array_equal(decode_image(ANY, file.getvalue()), expected)


def test_padding_before_the_end_of_a_jpeg_does_no_harm():
    data = saved(NOISE, "JPEG")
    whole = decode_image(ANY, data)
    for other in (data[:-2] + b"\0\0" + data[-2:], data + bytes(5000), data + data):
        assert np.array_equal(decode_image(ANY, other), whole)


def jpeg_marker(data, kind):
    """Finds where the first segment of a kind begins."""
    place = 2
    while data[place + 1] != kind:
        place += 2 + int.from_bytes(data[place + 2 : place + 4])
    return place


def with_bytes(data, place, new):
    return data[:place] + new + data[place + len(new) :]


def unorderly_jpegs():
    """Yields sound files that break the letter of the format, as phones and scanners write them."""
    data = saved(NOISE, "JPEG", quality=85)
    scan = jpeg_marker(data, 0xDA)
    end = scan + 2 + int.from_bytes(data[scan + 2 : scan + 4])
    adobe = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0"
    thumbnail = b"Exif\0\0" + saved(NOISE[:40, :40], "JPEG")
    yield "scan of no coefficients", data, with_bytes(data, end - 2, b"\0")
    yield "scan from coefficient 1", data, with_bytes(data, end - 3, b"\1")
    yield "successive approximation", data, with_bytes(data, end - 1, b"\x10")
    yield "version 2 of JFIF", data, with_bytes(data, 11, b"\2")
    yield "unknown colour space", data, data[:2] + adobe + b"\5" + data[20:]
    for count in (16, 100, 5000):
        yield f"{count} zeros before the end", data, data[:-2] + bytes(count) + data[-2:]
    yield "zeros between segments", data, data[:scan] + bytes(7) + data[scan:]
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2) + thumbnail
    yield "thumbnail", data, data[:2] + segment + with_bytes(data, end - 2, b"\0")[2:-2] + bytes(99) + data[-2:]
    planes = saved(NOISE, "JPEG", quality=85, restart_marker_rows=1)
    yield "restart markers", planes, planes[:-2] + bytes(50) + planes[-2:]
    steps = saved(NOISE, "JPEG", quality=85, progressive=True)
    yield "progressive", steps, with_bytes(steps, 11, b"\2")[:-2] + bytes(50) + steps[-2:]


@pytest.mark.parametrize(
    ("whole", "data"), [case[1:] for case in unorderly_jpegs()], ids=[c[0] for c in unorderly_jpegs()]
)
def test_jpegs_that_break_only_the_letter_of_the_format_are_read_and_damage_in_them_is_found(
    whole, data, capfd
):
    assert np.array_equal(decode_image(ANY, data), decode_image(ANY, whole))
    start = len(whole) * 5 // 8
    for bad in (
        data[:start] + data[start + 400 :],
        data[:start] + data[-2:],
        data[:start] + bytes(400) + data[-2:],
    ):
        with pytest.raises(DamagedImageError, match=r"a\.any is damaged or cut short"):
            decode_image(ANY, bad)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", [b"tEXt", b"pHYs", b"tIME", b"eXIf"])
def test_a_wrong_checksum_of_what_is_no_pixel_does_no_harm(kind, capfd):
    data = saved(IDS, "PNG")
    chunk = struct.pack(">I", 9) + kind + b"\0\0\0\1\0\0\0\1\0" + b"\1\2\3\4"
    for place in (33, len(data) - 12):
        assert np.array_equal(decode_mask(ANY, data[:place] + chunk + data[place:]), IDS)
        assert np.array_equal(decode_image(ANY, data[:place] + chunk + data[place:])[..., 0], IDS)


@pytest.mark.parametrize("kind", ["BMP", "GIF", "PPM", "JPEG2000", "AVIF", "WEBP", "TIFF"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_a_file_of_any_format_cut_short_is_named(kind, share, capfd):
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    data = saved(NOISE, kind)
    with pytest.raises(DamagedImageError, match=r"a\.any is damaged or cut short"):
        decode_image(ANY, data[: int(len(data) * share)])
    assert capfd.readouterr() == ("", "")


# -- limits --


def claiming(width, height):
    """Makes a PNG whose header claims a size that its pixels do not have."""
    data = saved(IDS, "PNG")
    header = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


def test_a_file_that_claims_too_much_is_refused_by_its_size():
    for decode in (decode_image, decode_mask):
        with pytest.raises(UnsupportedImageError, match=r"a\.any has 40000x40000 = 1,600,000,000 pixels, more"):
            decode(ANY, claiming(40000, 40000))
    data = bytearray(saved(SMOOTH, "BMP"))
    data[18:26] = struct.pack("<ii", 40000, 40000)
    with pytest.raises(UnsupportedImageError, match=r"40000x40000 = 1,600,000,000 pixels, more than the limit"):
        decode_image(ANY, bytes(data))


def test_our_limit_holds_in_place_of_pillows(monkeypatch):
    """Masks of slides exceed that of Pillow, which stays what the user's own code has set."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    image = Image.fromarray(IDS)
    image.putpalette(list(range(256)) * 3)
    for kind in ("PNG", "TIFF", "GIF", "BMP"):
        file = io.BytesIO()
        image.save(file, kind)
        assert np.array_equal(decode_mask(ANY, file.getvalue()), IDS)
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize(
    ("library", "name", "error", "kind"),
    [
        (cv2, "imdecode", CV2_MEMORY, "PNG"),
        (cv2, "cvtColor", CV2_MEMORY, "TIFF"),
        (simplejpeg, "decode_jpeg", ValueError("Insufficient memory (case 4)"), "JPEG"),
        (Image.Image, "load", OSError("out of memory when reading image file"), "GIF"),
        (Image.Image, "convert", MemoryError(), "BMP"),
        (tifffile.TiffPage, "asarray", MemoryError("Unable to allocate 3 GiB"), "TIFF"),
    ],
)
def test_running_out_of_memory_is_not_damage(monkeypatch, library, name, error, kind):
    def refuse(*_, **__):
        raise error

    data = saved(IDS, kind)
    monkeypatch.setattr(library, name, refuse)
    with pytest.raises(MemoryError, match=r"a\.any does not fit into memory.*num_workers"):
        decode_image(ANY, data)


# -- depth --


@pytest.fixture
def unwarned(monkeypatch):
    monkeypatch.setattr(pixels, "_warned", set())


@pytest.mark.parametrize(("bits", "factor"), [(10, 64), (12, 16), (14, 4)])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_few_bits_in_sixteen_are_told_once(unwarned, kind, bits, factor):
    values = SMOOTH[..., 0].astype(np.uint16) << (bits - 8)
    with pytest.warns(UserWarning, match=rf"a\.any has 16-bit values of at most .* by {factor} "):
        dark = decode_image(ANY, saved(values, kind))
    assert dark.max() < 64
    with warnings.catch_warnings():  # of the second file, and once the advice is followed
        warnings.simplefilter("error")
        decode_image(Path("b.any"), saved(values, kind))
        image = decode_image(ANY, saved(values * np.uint16(factor), kind))
    assert np.array_equal(image[..., 0], SMOOTH[..., 0])


def test_sixteen_bits_and_black_are_read_without_a_word(unwarned):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(
            decode_image(ANY, saved(SMOOTH[..., 0].astype(np.uint16) * 257, "PNG"))[..., 1], SMOOTH[..., 0]
        )
        assert not decode_image(ANY, saved(np.zeros((8, 8), np.uint16), "PNG")).any()


@pytest.mark.parametrize("largest", [1023, 4095])
def test_a_pgm_says_its_largest_value(unwarned, largest):
    values = (SMOOTH[..., 0].astype(np.uint32) * largest // 255).astype(">u2")
    data = f"P5 128 96 {largest}\n".encode() + values.tobytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.abs(decode_image(ANY, data)[..., 0].astype(int) - SMOOTH[..., 0]).max() <= 1


def test_all_suffixes_are_lower_case():
    assert all(suffix == suffix.lower() and suffix[0] == "." for suffix in SUFFIXES)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_masks_painted_in_16_bits_are_exact_or_refused(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    for factor in (257, 256):
        cv2.imwrite(str(path), SMOOTH[..., ::-1].astype(np.uint16) * np.uint16(factor))
        assert np.array_equal(read_painted(path), SMOOTH)
    cv2.imwrite(str(path), SMOOTH[..., ::-1].astype(np.uint16))  # their upper halves alone are black
    with pytest.raises(UnsupportedImageError, match=rf"a\.{suffix} holds colours of 16 bits.* with 8 bits"):
        read_painted(path)


def test_jpegs_cut_within_their_header_are_damaged():
    data = saved(NOISE, "JPEG")
    for end in range(20, data.index(b"\xff\xda"), 7):
        with pytest.raises(DamagedImageError, match=r"a\.any is damaged.*(header|subsampling|JPEG)"):
            decode_image(ANY, data[:end])
        assert jpeg_size(data[:end]) == ()

"""Pictures and masks as users have them, written by Pillow, read by segbench."""

import io
import struct
import unicodedata
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from segbench.data.io.color_masks import is_colored
from segbench.data.io.files import read_image, read_mask, write_image
from segbench.data.io.listing import list_files

RNG = np.random.default_rng(0)
SMOOTH = np.stack(np.broadcast_arrays(np.arange(40)[:, None] * 6, np.arange(56) * 4, 90), -1).astype(np.uint8)
IDS = RNG.integers(0, 12, (40, 56)).astype(np.uint8)


@pytest.mark.parametrize("name", ["a.png", "b.BMP", "c.tif", "d.TIFF", "Köln 東京 ü.png", "with space.PNG"])
def test_reads_rgb_exactly(tmp_path, name):
    Image.fromarray(SMOOTH).save(tmp_path / name)
    assert np.array_equal(read_image(tmp_path / name), SMOOTH)
    assert list(list_files(tmp_path).values()) == [tmp_path / name]


@pytest.mark.parametrize("name", ["a.jpg", "a.JPEG", "a.webp"])
def test_reads_rgb_nearly_from_lossy_files(tmp_path, name):
    Image.fromarray(SMOOTH).save(tmp_path / name, quality=98)
    assert np.abs(read_image(tmp_path / name).astype(int) - SMOOTH).mean() < 3


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "I;16"])
def test_any_photograph_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    picture = Image.fromarray(SMOOTH)
    if mode == "I;16":
        Image.fromarray(SMOOTH[..., 0].astype(np.uint16) * 257).save(path)
        expected = np.repeat(SMOOTH[..., :1], 3, 2)
    else:
        picture.convert(mode).save(path)
        expected = np.array(picture.convert(mode).convert("RGB"))
    assert np.abs(read_image(path).astype(int) - expected).mean() < 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_as_exif_says(tmp_path, orientation):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / "a.jpg"
    Image.fromarray(SMOOTH).save(path, exif=exif, quality=98)
    with Image.open(path) as picture:
        expected = np.array(ImageOps.exif_transpose(picture)).astype(int)
    image = read_image(path)
    assert image.shape == expected.shape
    assert np.abs(image - expected).mean() < 2


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_a_file_cut_short_is_named(tmp_path, suffix, share):
    whole = io.BytesIO()
    noise = RNG.integers(0, 256, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(noise).save(whole, {".jpg": "JPEG", ".png": "PNG", ".webp": "WEBP"}[suffix])
    path = tmp_path / f"photo{suffix}"
    path.write_bytes(whole.getvalue()[: int(len(whole.getvalue()) * share)])
    with pytest.raises(ValueError, match=f"photo{suffix} is damaged or cut short"):
        read_image(path)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_file_cut_short_is_named_where_opencv_hides_it(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"photo{suffix}"
    Image.fromarray(SMOOTH).save(path)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: np.full((40, 56, 3), 128, np.uint8))  # as OpenCV 4 does
    assert read_image(path).shape == SMOOTH.shape
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=f"photo{suffix} is damaged or cut short"):
        read_image(path)


def test_data_behind_a_photograph_do_no_harm(tmp_path):
    path = tmp_path / "motion.jpg"
    Image.fromarray(SMOOTH).save(path)
    path.write_bytes(path.read_bytes() + bytes(5000))
    assert read_image(path).shape == SMOOTH.shape


@pytest.mark.parametrize("content", [b"", b"not a picture"])
def test_what_is_no_picture_is_named(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    for read in (read_image, read_mask):
        with pytest.raises(ValueError, match=r"a\.png is damaged"):
            read(tmp_path / "a.png")


def test_in_a_palette_mask_the_index_is_the_class(tmp_path):
    mask = Image.fromarray(IDS)
    mask.putpalette([255 - i % 256 for i in range(768)])
    assert mask.mode == "P"
    mask.save(tmp_path / "a.png")
    assert np.array_equal(read_mask(tmp_path / "a.png"), IDS)


@pytest.mark.parametrize(
    ("dtype", "suffix"), [(np.uint8, ".png"), (np.uint16, ".png"), (np.uint8, ".bmp"), (np.int32, ".tif")]
)
def test_grey_masks_of_all_depths(tmp_path, dtype, suffix):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(IDS.astype(dtype)).save(path)
    assert np.array_equal(read_mask(path), IDS)


@pytest.mark.parametrize("extra", [{}, {"transparency": 3}, {"optimize": True}])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_masks_of_any_kind_are_what_pillow_reads(tmp_path, dtype, extra):
    """OpenCV reads them, where it gives the same."""
    Image.fromarray((IDS * 20).astype(dtype)).save(tmp_path / "a.png", **extra)
    mask = read_mask(tmp_path / "a.png")
    assert mask.dtype == dtype
    assert np.array_equal(mask, np.asarray(Image.open(tmp_path / "a.png")))


def test_a_damaged_grey_mask_is_never_read_as_another(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(IDS).save(path)
    whole = path.read_bytes()
    refused = 0
    for place in range(26, len(whole), max(1, len(whole) // 200)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        try:
            mask = read_mask(path)
        except ValueError:
            refused += 1
        else:
            assert np.array_equal(mask, IDS)
    assert refused > 20


def test_one_bit_masks_hold_zero_and_one(tmp_path):
    Image.fromarray(IDS > 5).save(tmp_path / "a.png")
    assert np.array_equal(read_mask(tmp_path / "a.png"), IDS > 5)


@pytest.mark.parametrize("bits", [2, 4])
def test_grey_masks_of_few_bits_hold_ids(tmp_path, bits):
    """A PNG of 4 bits is read as multiples of 17 by Pillow and OpenCV alike."""
    ids = np.arange(8, dtype=np.uint8)[None] % 2**bits
    packed = b"\0" + np.packbits((ids[0][:, None] >> np.arange(bits)[::-1]) & 1).tobytes()

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 8, 1, bits, 0, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(packed)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    assert np.array_equal(read_mask(tmp_path / "a.png"), ids)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_coloured_masks_are_refused_with_a_remedy(tmp_path, mode):
    picture = Image.fromarray(SMOOTH).convert(mode)
    if mode == "LA":
        picture.putalpha(7)
    picture.save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=rf"a\.png holds colours .*mode {mode}.*one id per pixel"):
        read_mask(tmp_path / "a.png")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_ids_in_equal_channels_are_read(tmp_path, mode):
    Image.fromarray(IDS).convert(mode).save(tmp_path / "a.png")
    assert np.array_equal(read_mask(tmp_path / "a.png"), IDS)


def test_jpeg_masks_are_refused(tmp_path):
    Image.fromarray(IDS).save(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match=r"a\.jpg: JPEG changes class ids"):
        read_mask(tmp_path / "a.jpg")


def test_jpeg_masks_are_refused_whatever_their_name(tmp_path):
    for picture in (IDS, SMOOTH):
        Image.fromarray(picture).save(tmp_path / "a.png", "JPEG")
        assert not is_colored(tmp_path / "a.png")
        with pytest.raises(
            ValueError, match=r"a\.png holds a lossy JPEG, whatever its name, which changes class ids"
        ):
            read_mask(tmp_path / "a.png")


def test_a_mask_cut_short_is_named(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(IDS).save(path)
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(ValueError, match=r"a\.png is damaged"):
        read_mask(path)


@pytest.mark.filterwarnings("ignore::segbench.data.io.listing.Clutter")  # said by the doctor alone
def test_lists_subfolders_and_links_but_no_hidden_files(tmp_path):
    for name in ("b/c/x.png", "a/y.JPG", ".z.png", "notes.txt", "b/._x.png"):
        (tmp_path / "real" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "real" / name).touch()
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "deep").symlink_to(tmp_path / "real")
    assert list(list_files(tmp_path / "real")) == ["a/y", "b/c/x"]
    assert list(list_files(tmp_path / "links")) == ["deep/a/y", "deep/b/c/x"]


def test_folders_are_listed_once_under_their_own_names(tmp_path):
    for name in ("z/x.png", "m/y.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    for link, target in {"loop": ".", "a": "z", "m/up": "..", "m/z": "../z"}.items():
        (tmp_path / link).symlink_to(target)
    assert list(list_files(tmp_path)) == ["m/y", "z/x"]
    assert list(list_files(tmp_path / "a")) == ["x"]


def test_accents_have_one_form(tmp_path):
    (tmp_path / unicodedata.normalize("NFD", "Köln.png")).touch()
    assert list(list_files(tmp_path)) == [unicodedata.normalize("NFC", "Köln")]


def test_two_files_of_one_name_are_refused(tmp_path):
    (tmp_path / "a.png").touch()
    (tmp_path / "a.jpg").touch()
    with pytest.raises(ValueError, match=r"a\.(png|jpg) and a\.(png|jpg) would have one name: .* mask_suffix"):
        list_files(tmp_path)


def test_writes_what_pillow_reads(tmp_path):
    write_image(tmp_path / "new" / "ü.png", SMOOTH)
    write_image(tmp_path / "ids.png", IDS.astype(np.uint16) * 300)
    assert np.array_equal(np.array(Image.open(tmp_path / "new" / "ü.png")), SMOOTH)
    assert np.array_equal(np.array(Image.open(tmp_path / "ids.png")), IDS * 300.0)

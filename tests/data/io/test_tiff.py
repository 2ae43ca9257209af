"""TIFFs as scanners, cameras, GDAL and rasterio write them: read as stored, or refused by name."""

import io

import numpy as np
import pytest
import tifffile
from PIL import Image

from segbench.data.io.files import read_image, read_mask
from segbench.data.io.formats import DamagedImageError, UnsupportedImageError

RGB = np.stack(np.broadcast_arrays(np.arange(40)[:, None] * 6, np.arange(56) * 4, 90), -1).astype(np.uint8)
GREY = RGB[..., 0]
DEEP = RGB.astype(np.uint16) * 257
EXTRA = 255 - RGB[..., :1]
IDS = np.random.default_rng(0).integers(0, 12, (40, 56)).astype(np.uint8)


def grey(array):
    return np.repeat(array[..., None], 3, 2)


def write(path, array, **options):
    tifffile.imwrite(path, array, metadata=None, **options)
    return path


BANDS = {
    "3 of GDAL": (RGB, {"photometric": "minisblack", "planarconfig": "contig"}),
    "3 of GDAL, 16 bits": (DEEP, {"photometric": "minisblack", "planarconfig": "contig"}),
    "4 of GDAL": (np.dstack([DEEP, DEEP[..., :1]]), {"photometric": "minisblack", "planarconfig": "contig"}),
    "3 apart": (DEEP.transpose(2, 0, 1), {"photometric": "minisblack", "planarconfig": "separate"}),
    "4 apart": (
        np.dstack([RGB, EXTRA]).transpose(2, 0, 1),
        {"photometric": "minisblack", "planarconfig": "separate"},
    ),
    "unassociated alpha": (
        np.dstack([RGB, EXTRA]),
        {"photometric": "rgb", "extrasamples": ["unassalpha"]},
    ),
    "near infrared": (np.dstack([RGB, EXTRA]), {"photometric": "rgb", "extrasamples": ["unspecified"]}),
    "two more": (np.dstack([RGB, EXTRA, EXTRA]), {"photometric": "rgb", "extrasamples": ["unspecified"] * 2}),
    "tiles": (DEEP, {"photometric": "rgb", "tile": (16, 16)}),
    "BigTIFF": (RGB, {"photometric": "rgb", "bigtiff": True}),
    "big-endian": (DEEP, {"photometric": "rgb", "byteorder": ">"}),
    "LZW and predictor": (
        DEEP,
        {"photometric": "minisblack", "planarconfig": "contig", "compression": "lzw", "predictor": True},
    ),
    "deflate": (RGB, {"photometric": "rgb", "compression": "deflate", "predictor": True}),
    "ZSTD": (DEEP, {"photometric": "rgb", "compression": "zstd"}),
    "PackBits and predictor": (RGB, {"photometric": "rgb", "compression": "packbits", "predictor": True}),
    "float32": ((RGB / 255).astype(np.float32), {"photometric": "rgb"}),
    "float16": ((RGB / 255).astype(np.float16), {"photometric": "rgb"}),
    "float64, 3 of GDAL": (RGB / 255, {"photometric": "minisblack", "planarconfig": "contig"}),
}


@pytest.mark.parametrize("kind", BANDS)
def test_the_first_three_bands_are_red_green_blue(tmp_path, kind):
    array, options = BANDS[kind]
    assert np.array_equal(read_image(write(tmp_path / "a.tif", array, **options)), RGB)


SINGLE = {
    "grey": (GREY, {"photometric": "minisblack"}),
    "inverted": (255 - GREY, {"photometric": "miniswhite"}),
    "inverted, 16 bits": (65535 - DEEP[..., 0], {"photometric": "miniswhite"}),
    "grey and alpha": (
        np.dstack([GREY, GREY]),
        {"photometric": "minisblack", "planarconfig": "contig", "extrasamples": ["unassalpha"]},
    ),
    "10 bits": (GREY.astype(np.uint16) << 2, {"photometric": "minisblack", "bitspersample": 10}),
    "12 bits": (GREY.astype(np.uint16) << 4, {"photometric": "minisblack", "bitspersample": 12}),
    "14 bits": (GREY.astype(np.uint16) << 6, {"photometric": "minisblack", "bitspersample": 14}),
    "float": ((GREY / 255).astype(np.float32), {"photometric": "minisblack"}),
}


@pytest.mark.parametrize("kind", SINGLE)
def test_one_band_is_grey(tmp_path, kind):
    array, options = SINGLE[kind]
    assert np.array_equal(read_image(write(tmp_path / "a.tif", array, **options)), grey(GREY))


def test_one_row_and_few_bits(tmp_path):
    row = np.arange(16, dtype=np.uint8)[None]
    path = write(tmp_path / "a.tif", row, photometric="minisblack", bitspersample=4)
    assert np.array_equal(read_image(path), grey(row * 17))
    assert np.array_equal(read_mask(path), row)
    assert read_image(write(tmp_path / "b.tif", RGB[:1], photometric="rgb")).shape == (1, 56, 3)


def test_palettes_and_inks_become_rgb(tmp_path):
    palette = np.random.default_rng(1).integers(0, 256, (3, 256)).astype(np.uint16)
    path = write(tmp_path / "a.tif", GREY, photometric="palette", colormap=palette * 257)
    assert np.array_equal(read_image(path), palette.T[GREY])
    assert np.array_equal(read_mask(path), GREY)
    for mode in ("CMYK", "YCbCr"):
        Image.fromarray(RGB).convert(mode).save(tmp_path / "b.tif")
        assert np.abs(read_image(tmp_path / "b.tif").astype(int) - RGB).max() < 4
    Image.fromarray(RGB).save(tmp_path / "c.tif", compression="jpeg", quality=95)
    assert np.abs(read_image(tmp_path / "c.tif").astype(int) - RGB).mean() < 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_image_and_mask_are_turned_alike(tmp_path, orientation):
    tag = [(274, "H", 1, orientation, True)]
    for array in (IDS, IDS.astype(np.int32)):
        mask = read_mask(write(tmp_path / "mask.tif", array, photometric="minisblack", extratags=tag))
        with Image.open(io.BytesIO((tmp_path / "mask.tif").read_bytes())) as image:
            image.load()  # which turns it
            assert np.array_equal(mask, np.asarray(image))
    image = read_image(write(tmp_path / "a.tif", grey(IDS), photometric="rgb", extratags=tag))
    assert np.array_equal(image, grey(mask))


REFUSED = {
    "has 5 bands": (np.dstack([RGB, EXTRA, EXTRA]), {"photometric": "minisblack", "planarconfig": "contig"}),
    "has 7 bands": (
        np.dstack([RGB, RGB, EXTRA]).transpose(2, 0, 1),
        {"photometric": "minisblack", "planarconfig": "separate"},
    ),
    "has 2 bands": (RGB[..., :2], {"photometric": "minisblack", "planarconfig": "contig"}),
    "holds int32 values from 0 to 234000": (GREY.astype(np.int32) * 1000, {"photometric": "minisblack"}),
    "holds uint32 values": (GREY.astype(np.uint32), {"photometric": "minisblack"}),
    "holds int16 values": (GREY.astype(np.int16), {"photometric": "minisblack"}),
    "holds int8 values": (GREY.astype(np.int8), {"photometric": "minisblack"}),
    "holds float32 values from 0 to 234": (GREY.astype(np.float32), {"photometric": "minisblack"}),
    "holds float64 values from -1": (RGB / 127.5 - 1, {"photometric": "rgb"}),
    "holds float32 values from nan": (np.full((4, 4), np.nan, np.float32), {"photometric": "minisblack"}),
    "holds 2 pages": (np.stack([RGB, RGB]), {"photometric": "rgb"}),
    "holds CIELAB colours": (RGB, {"photometric": "cielab"}),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_has_no_single_meaning_is_refused_by_name(tmp_path, reason, capfd):
    array, options = REFUSED[reason]
    with pytest.raises(UnsupportedImageError, match=rf"a\.tif {reason}"):
        read_image(write(tmp_path / "a.tif", array, **options))
    assert capfd.readouterr() == ("", "")


def test_overviews_and_thumbnails_are_no_pages(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:  # as a cloud-optimised GeoTIFF
        file.write(RGB, photometric="rgb", metadata=None)
        file.write(RGB[::2, ::2], photometric="rgb", metadata=None, subfiletype=1)
        file.write(GREY > 9, photometric="minisblack", metadata=None, subfiletype=4)
    assert np.array_equal(read_image(tmp_path / "a.tif"), RGB)
    with tifffile.TiffWriter(tmp_path / "b.tif") as file:  # as a camera raw file
        file.write(RGB[::2, ::2], photometric="rgb", metadata=None, subfiletype=1)
        file.write(RGB, photometric="rgb", metadata=None)
    with pytest.raises(UnsupportedImageError, match=r"b\.tif begins with a thumbnail"):
        read_image(tmp_path / "b.tif")


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"])
@pytest.mark.parametrize("compression", [None, "lzw", "deflate"])
def test_masks_of_all_integers_hold_ids(tmp_path, dtype, compression):
    path = write(tmp_path / "a.tif", IDS.astype(dtype), photometric="minisblack", compression=compression)
    mask = read_mask(path)
    assert mask.dtype == dtype
    assert np.array_equal(mask, IDS)


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_one_bit_masks_are_one_where_viewers_show_white(tmp_path, photometric):
    path = write(tmp_path / "a.tif", (IDS > 5) ^ (photometric == "miniswhite"), photometric=photometric)
    assert np.array_equal(read_mask(path), IDS > 5)


def test_masks_that_hold_something_else_are_refused(tmp_path):
    for array, options, reason in (
        (IDS, {"photometric": "miniswhite"}, "inverted grey values"),
        (IDS, {"photometric": "minisblack", "compression": "jpeg"}, "compressed by JPEG, which may change"),
        (IDS, {"photometric": "minisblack", "compression": "jpeg2000"}, "compressed by JPEG2000, which may"),
        (IDS.astype(np.float32) / 2, {"photometric": "minisblack"}, "float32.*, not class ids"),
        (RGB, {"photometric": "minisblack", "planarconfig": "contig"}, "3 bands, MINISBLACK.*, not class ids"),
        (np.stack([IDS, IDS]), {"photometric": "minisblack"}, "holds 2 pages"),
    ):
        with pytest.raises(UnsupportedImageError, match=rf"a\.tif .*{reason}"):
            read_mask(write(tmp_path / "a.tif", array, **options))


@pytest.mark.parametrize("compression", [None, "lzw", "deflate", "zstd", "jpeg"])
def test_missing_bytes_are_found(tmp_path, compression, capfd):
    path = write(tmp_path / "a.tif", RGB, photometric="rgb", compression=compression, rowsperstrip=8)
    whole = path.read_bytes()
    for data in (whole[: len(whole) * 9 // 10], whole[: len(whole) // 2], whole[:100]):
        path.write_bytes(data)
        with pytest.raises(DamagedImageError, match=r"a\.tif is damaged or cut short"):
            read_image(path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package"),
        ModuleNotFoundError("No module named 'compression'"),  # of Python 3.14, for ZSTD
    ],
)
def test_without_imagecodecs_pillow_reads_what_it_reads_rightly(tmp_path, monkeypatch, error):
    files = {
        "grey.tif": (GREY, {"photometric": "minisblack"}),
        "deep.tif": (DEEP[..., 0], {"photometric": "minisblack"}),
        "rgb.tif": (RGB, {"photometric": "rgb"}),
        "rgba.tif": (np.dstack([RGB, GREY]), {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
        "rgbn.tif": (np.dstack([RGB, GREY]), {"photometric": "rgb", "extrasamples": ["unspecified"]}),
        "bands.tif": (RGB, {"photometric": "minisblack", "planarconfig": "contig"}),
        "times.tif": (np.dstack([RGB, GREY]), {"photometric": "rgb", "extrasamples": ["assocalpha"]}),
    }
    for name, (array, options) in files.items():
        write(tmp_path / name, array, compression="lzw", **options)

    def without(page):
        raise error

    monkeypatch.setattr(tifffile.TiffPage, "asarray", without)
    for dtype in (np.int16, np.int32):
        mask = read_mask(write(tmp_path / "mask.tif", IDS.astype(dtype) - 1, compression="lzw"))
        assert np.array_equal(mask, IDS.astype(dtype) - 1)
    mask = read_mask(write(tmp_path / "mask.tif", IDS.astype(np.float32), compression="lzw"))
    assert np.array_equal(mask, IDS)
    for kind in ("group4", "tiff_lzw"):  # of which the first inverts
        Image.fromarray(IDS > 5).save(tmp_path / "bits.tif", compression=kind)
        assert np.array_equal(read_mask(tmp_path / "bits.tif"), IDS > 5)
        assert np.array_equal(read_image(tmp_path / "bits.tif")[..., 0], (IDS > 5) * 255)
    for name, expected in (("grey.tif", grey(GREY)), ("deep.tif", grey(GREY))):
        assert np.array_equal(read_image(tmp_path / name), expected)
    for name in ("rgb.tif", "rgba.tif", "rgbn.tif"):
        assert np.array_equal(read_image(tmp_path / name), RGB)
    for name in ("bands", "times"):
        message = rf"{name}\.tif needs imagecodecs .*LZW.*segbench\[tiff\]"
        with pytest.raises(UnsupportedImageError, match=message):
            read_image(tmp_path / f"{name}.tif")

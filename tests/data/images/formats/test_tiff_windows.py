from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.data.images.formats import has_windows, open_window, read_header, read_pixels, read_window
from finetune.data.images.formats.tiff_windows import _segments
from finetune.data.records import DataError
from finetune.data.window import Window, grid
from tests.tiff_writer import write_tiff

tifffile = pytest.importorskip("tifffile")
pytest.importorskip("imagecodecs")
SIZE = (50, 70)
STORED = [
    {},
    {"rowsperstrip": 7},
    {"tile": (16, 32)},
    {"tile": (16, 16), "compression": "zlib", "predictor": True},
    {"rowsperstrip": 9, "compression": "lzw"},
    {"tile": (16, 32), "byteorder": ">"},
    {"byteorder": ">"},
    {"tile": (32, 16), "bigtiff": True},
]
KINDS = [
    (np.uint8, 0, "minisblack", ()),
    (np.uint8, 3, "rgb", ()),
    (np.uint8, 4, "rgb", ("unassalpha",)),
    (np.uint16, 0, "minisblack", ()),
    (np.int16, 5, "minisblack", ("unspecified",) * 4),
    (np.float32, 2, "minisblack", ("unspecified",)),
    (np.uint16, 4, "rgb", ("unassalpha",)),
]


def noise(dtype: type, bands: int = 0) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (*SIZE, bands) if bands else SIZE).astype(dtype)


def parts(path: Path) -> list[Window]:
    """Return windows that start and end anywhere."""
    return [*grid(SIZE, (16, 16)), *grid(SIZE, (13, 29)), Window(0, 0, *SIZE), Window(49, 69, 1, 1)]


def check_parts(path: Path, whole: np.ndarray) -> None:
    for part in parts(path):
        found = read_window(path, part).values
        assert found.dtype == whole.dtype
        assert np.array_equal(found, whole[part.rows, part.columns])


@pytest.mark.parametrize("stored", STORED, ids=str)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{np.dtype(kind[0])}x{kind[1]}")
def test_every_part_is_what_was_written_there(tmp_path, kind, stored):
    dtype, bands, photometric, extra = kind
    pixels = noise(dtype, bands)
    contiguous = {"planarconfig": "contig"} if bands else {}
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric=photometric, extrasamples=extra, **contiguous, **stored)
    check_parts(tmp_path / "a.tif", pixels.reshape(*SIZE, -1))
    assert read_window(tmp_path / "a.tif", Window(3, 4, 5, 6)).alpha == read_header(tmp_path / "a.tif").alpha


@pytest.mark.parametrize("stored", [{}, {"tile": (16, 32)}, {"rowsperstrip": 7, "compression": "zlib"}], ids=str)
def test_planes_of_bands_are_joined(tmp_path, stored):
    pixels = noise(np.uint16, 3)
    planes = np.moveaxis(pixels, -1, 0)
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="rgb", planarconfig="separate", **stored)
    check_parts(tmp_path / "a.tif", pixels)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_parts_of_what_pillow_writes_are_parts_of_what_it_reads(tmp_path, mode, compression):
    path = tmp_path / "a.tif"
    color = Image.fromarray(noise(np.uint8, 3))
    deep = {"I;16": np.uint16, "I": np.int32, "F": np.float32}
    image = color.quantize(8) if mode == "P" else color.convert(mode) if mode not in deep else None
    (Image.fromarray(noise(deep[mode])) if image is None else image).save(path, compression=compression)
    check_parts(path, read_pixels(path).values)
    for part in parts(path):
        with Image.open(path) as expected:
            found = open_window(path, part)
            assert np.array_equal(np.asarray(found), np.asarray(expected.crop(part.box)))
            if mode == "P":
                assert found.getpalette()[:24] == expected.getpalette()[:24]


def test_parts_of_jpeg_color_are_nearly_what_pillow_decodes(tmp_path):
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    pixels = np.stack([2 * x, 3 * y, x + y], axis=-1).astype(np.uint8)
    tifffile.imwrite(
        tmp_path / "a.tif", pixels, photometric="ycbcr", compression="jpeg", tile=(16, 16), subsampling=(1, 1)
    )
    whole = read_pixels(tmp_path / "a.tif").values.astype(int)
    for part in parts(tmp_path / "a.tif"):
        found = read_window(tmp_path / "a.tif", part).values
        assert abs(found - whole[part.rows, part.columns]).max() <= 2


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_parts_are_those_of_the_upright_picture(tmp_path, orientation):
    path = write_tiff(tmp_path / "a.tif", noise(np.uint8), orientation=orientation)
    whole = read_pixels(path).values
    assert np.array_equal(read_window(path, Window(3, 4, 20, 10)).values, whole[3:23, 4:14])


def test_white_may_be_zero(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", noise(np.uint8), photometric="miniswhite", tile=(16, 16))
    check_parts(tmp_path / "a.tif", read_pixels(tmp_path / "a.tif").values)


@pytest.mark.parametrize("bands", [4, 5])
def test_colors_that_hold_their_alpha_are_read_as_those_of_the_whole(tmp_path, bands):
    extra = ["assocalpha"] if bands == 4 else ["unspecified", "assocalpha"]
    pixels = noise(np.uint8, bands)
    pixels[..., :3] = np.minimum(pixels[..., :3], pixels[..., -1:])
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=extra, planarconfig="contig")
    check_parts(tmp_path / "a.tif", read_pixels(tmp_path / "a.tif").values)


def test_only_the_tiles_that_a_part_overlaps_are_read(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(np.uint8), tile=(16, 16), compression="zlib")
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        assert list(_segments(page, Window(16, 30, 17, 3), path)) == [6, 7, 11, 12]
        damaged = page.dataoffsets[0]
    content = bytearray(path.read_bytes())
    content[damaged : damaged + 8] = b"damaged!"
    path.write_bytes(content)
    assert np.array_equal(read_window(path, Window(16, 16, 34, 54)).values[..., 0], noise(np.uint8)[16:, 16:])
    with pytest.raises(DataError, match=r"cannot read '.*a\.tif'"):
        read_window(path, Window(0, 0, 8, 8))


def test_tiles_that_were_never_written_are_black(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", noise(np.uint8), tile=(16, 16), compression="zlib")
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as file:
        tags = file.pages[0].tags
        counts = tags["TileByteCounts"].value
        tags["TileByteCounts"].overwrite((0, *counts[1:]))
    expected = noise(np.uint8)
    expected[:16, :16] = 0
    assert np.array_equal(read_window(tmp_path / "a.tif", Window(3, 4, 40, 40)).values[..., 0], expected[3:43, 4:44])


@pytest.mark.parametrize("stored", [{}, {"tile": (16, 16)}, {"rowsperstrip": 7, "compression": "zlib"}], ids=str)
@pytest.mark.parametrize("kept", [9, 0.3, 0.9])
def test_a_truncated_file_is_named(tmp_path, stored, kept):
    path = tmp_path / "cut.tif"
    tifffile.imwrite(path, noise(np.uint8), **stored)
    content = path.read_bytes()
    path.write_bytes(content[: kept if kept > 1 else int(kept * len(content))])
    with pytest.raises(DataError, match=r"cannot read '.*cut\.tif'"):
        read_window(path, Window(0, 0, *SIZE))


def test_a_part_of_an_image_of_any_size_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("finetune.data.images.decode.MAX_PIXELS", 1000)
    for suffix, options in ((".tif", {"tile": (16, 16)}), (".npy", None)):
        path = tmp_path / f"a{suffix}"
        if options is None:
            np.save(path, noise(np.uint8))
        else:
            tifffile.imwrite(path, noise(np.uint8), **options)
        assert np.array_equal(read_window(path, Window(10, 20, 9, 8)).values[..., 0], noise(np.uint8)[10:19, 20:28])
        for read in (read_pixels, read_header):
            with pytest.raises(DataError, match=r"claims to have 70 x 50 pixels.*data\.tiles=2048"):
                read(path)
        assert read_header(path, any_size=True).upright_size == SIZE


def test_blocks_that_are_too_large_to_be_decoded_are_refused(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", noise(np.uint8), rowsperstrip=50, compression="zlib")
    monkeypatch.setattr("finetune.data.images.decode.MAX_PIXELS", 1000)
    with pytest.raises(DataError, match=r"a\.tif' is stored in blocks of 70 x 50 pixels.*tiled TIFF"):
        read_window(tmp_path / "a.tif", Window(0, 0, 8, 8))


def test_a_missing_package_is_named_unless_pillow_can_read_the_whole(tmp_path, monkeypatch):
    path, part = write_tiff(tmp_path / "a.tif", noise(np.uint8)), Window(0, 0, 8, 8)
    monkeypatch.setitem(__import__("sys").modules, "tifffile", None)
    assert np.array_equal(read_window(path, part).values[..., 0], noise(np.uint8)[:8, :8])
    assert np.array_equal(np.asarray(open_window(path, part)), noise(np.uint8)[:8, :8])
    assert not has_windows(path)  # Pillow decodes the whole for each part
    monkeypatch.setattr("finetune.data.images.decode.MAX_PIXELS", 1000)
    for read in (read_window, open_window):
        with pytest.raises(DataError, match=r"a\.tif' .*pip install 'finetune-seg\[tiff\]'"):
            read(path, part)

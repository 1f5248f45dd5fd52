import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import AppendingTiffWriter, ImageFileDirectory_v2

from finetune.data.images.formats import read_header, read_pixels
from finetune.data.records import DataError
from tests.tiff_writer import write_tiff

ORIENTED = {1: lambda a: a, 3: lambda a: np.rot90(a, 2), 6: lambda a: np.rot90(a, -1), 8: np.rot90}


def ramp(dtype: type, bands: int | None = None) -> np.ndarray:
    shape = (4, 6) if bands is None else (4, 6, bands)
    count = int(np.prod(shape))
    low, high = (-1.5, 9.75) if dtype in (np.float32, np.float64) else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return np.linspace(low, high, count).astype(dtype).reshape(shape)


def check(path: Path, pixels: np.ndarray, colors: int, alpha: bool = False) -> None:
    """Compare header and pixels of a file with what was written."""
    header, read = read_header(path), read_pixels(path)
    assert (header.colors, header.alpha, header.dtype.newbyteorder("=")) == (colors, alpha, pixels.dtype)
    assert (read.colors, read.alpha, read.values.dtype.newbyteorder("=")) == (colors, alpha, pixels.dtype)
    assert np.array_equal(read.values, pixels.reshape(*pixels.shape[:2], -1))


def test_a_stack_of_images_is_refused_and_a_reduced_copy_is_not(tmp_path):
    pages = [Image.fromarray(ramp(np.uint8) + n) for n in range(3)]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    for read in (read_header, read_pixels):
        with pytest.raises(DataError, match=r"stack\.tif' holds several images \(a stack\)"):
            read(tmp_path / "stack.tif")
    pages[0].save(tmp_path / "pyramid.tif", save_all=True, append_images=[pages[0].resize((3, 2))])
    check(tmp_path / "pyramid.tif", ramp(np.uint8), 1)
    for kind in (1, 4, (1, 1)):  # a copy, a mask of transparency, a broken entry
        info = ImageFileDirectory_v2()
        info[254] = kind
        with AppendingTiffWriter(str(tmp_path / "copy.tif"), new=True) as writer:
            pages[0].save(writer, format="TIFF")
            writer.newFrame()
            pages[1].save(writer, format="TIFF", tiffinfo=info)
        check(tmp_path / "copy.tif", ramp(np.uint8), 1)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32, np.float32])
def test_one_band_of_any_type_is_read_without_further_packages(tmp_path, monkeypatch, dtype, order):
    monkeypatch.setattr("finetune.data.images.formats.tiff.import_tifffile", None)
    check(write_tiff(tmp_path / "a.tif", ramp(dtype), order=order), ramp(dtype), 1)


@pytest.mark.parametrize(
    ("bands", "photometric", "extra", "colors", "alpha"),
    [(3, 2, (), 3, False), (4, 2, (2,), 3, True), (2, 1, (2,), 1, True)],
)
def test_colors_of_eight_bit_are_read_without_further_packages(
    tmp_path, monkeypatch, bands, photometric, extra, colors, alpha
):
    monkeypatch.setattr("finetune.data.images.formats.tiff.import_tifffile", None)
    pixels = ramp(np.uint8, bands)
    check(write_tiff(tmp_path / "a.tif", pixels, photometric, extra), pixels, colors, alpha)


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("dtype", "bands", "photometric", "extra", "colors", "alpha"),
    [
        (np.uint8, 2, 1, (0,), 2, False),
        (np.uint8, 3, 1, (0, 0), 3, False),
        (np.uint8, 4, 2, (0,), 4, False),
        (np.uint8, 5, 2, (0, 2), 4, True),
        (np.uint16, 3, 2, (), 3, False),
        (np.uint16, 4, 2, (2,), 3, True),
        (np.uint16, 8, 1, (0,) * 7, 8, False),
        (np.int16, 2, 1, (0,), 2, False),
        (np.float32, 3, 1, (0, 0), 3, False),
        (np.float64, None, 1, (), 1, False),
        (np.int8, None, 1, (), 1, False),
        (np.uint32, None, 1, (), 1, False),
    ],
)
def test_any_number_of_bands_and_bits_is_read(
    tmp_path, dtype, bands, photometric, extra, colors, alpha, order, separate
):
    pytest.importorskip("tifffile")
    pixels = ramp(dtype, bands)
    check(write_tiff(tmp_path / "a.tif", pixels, photometric, extra, order, separate), pixels, colors, alpha)


def test_planes_of_eight_bit_color_are_joined(tmp_path):
    pixels = ramp(np.uint8, 3)
    check(write_tiff(tmp_path / "a.tif", pixels, 2, separate=True), pixels, 3)


@pytest.mark.parametrize("orientation", ORIENTED)
@pytest.mark.parametrize(("dtype", "bands"), [(np.uint8, None), (np.uint16, None), (np.uint16, 5)])
def test_an_orientation_is_applied(tmp_path, dtype, bands, orientation):
    if bands:
        pytest.importorskip("tifffile")
    extra = (0,) * ((bands or 1) - 1)
    path = write_tiff(tmp_path / "a.tif", ramp(dtype, bands), extra=extra, orientation=orientation)
    expected = ORIENTED[orientation](ramp(dtype, bands))
    assert np.array_equal(read_pixels(path).values, expected.reshape(*expected.shape[:2], -1))
    assert read_header(path).upright_size == expected.shape[:2]


def test_compressed_bands_are_read(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    pytest.importorskip("imagecodecs")
    pixels = np.random.default_rng(0).integers(0, 60_000, (40, 50, 5), dtype=np.uint16)
    tifffile.imwrite(
        tmp_path / "a.tif", pixels, photometric="minisblack", planarconfig="contig", compression="zlib", tile=(16, 16)
    )
    check(tmp_path / "a.tif", pixels, 5)


def test_a_palette_is_color(tmp_path):
    Image.new("RGB", (6, 4), (10, 200, 30)).quantize(4).save(tmp_path / "a.tif")
    assert (read_header(tmp_path / "a.tif").colors, read_pixels(tmp_path / "a.tif").values[0, 0].tolist()) == (
        3,
        [10, 200, 30],
    )


def test_a_palette_of_sixteen_colors_is_color(tmp_path):
    indices, colors = np.array([[0, 1, 2, 15], [15, 2, 1, 0]]), np.arange(48).reshape(16, 3) * 5
    tags = [(256, 4), (257, 2), (258, 4), (259, 1), (262, 3), (273, 134), (277, 1), (278, 2), (279, 4)]
    entries = b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in tags)
    entries += struct.pack("<HHII", 320, 3, 48, 138)  # the color map
    packed = bytes((indices[:, ::2] << 4 | indices[:, 1::2]).astype(np.uint8).ravel().tolist())
    start = struct.pack("<2sHIH", b"II", 42, 8, 10) + entries + bytes(4)
    (tmp_path / "a.tif").write_bytes(start + packed + (colors.T * 257).astype("<u2").tobytes())
    header, pixels = read_header(tmp_path / "a.tif"), read_pixels(tmp_path / "a.tif")
    assert (header.height, header.width, header.colors, header.is_deep) == (2, 4, 3, False)
    assert np.array_equal(pixels.values, colors[indices])


def test_a_missing_package_is_named_with_what_the_file_holds(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tifffile", None)
    path = write_tiff(tmp_path / "a.tif", ramp(np.uint16, 8), extra=(0,) * 7)
    with pytest.raises(DataError, match=r"a\.tif' has 8 bands of 16 bit .*pip install 'finetune-seg\[tiff\]'"):
        read_pixels(path)
    assert read_header(path).colors == 8


@pytest.mark.parametrize("bands", [None, 3, 8])
@pytest.mark.parametrize("kept", [4, 9, 60, 0.5, 0.95])
def test_a_truncated_file_is_named(tmp_path, bands, kept):
    if bands == 8:
        pytest.importorskip("tifffile")
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, bands or 1), dtype=np.uint8)
    path = write_tiff(tmp_path / "cut.tif", pixels, 2 if bands == 3 else 1, (0,) * 7 if bands == 8 else ())
    whole = path.read_bytes()
    path.write_bytes(whole[: kept if kept > 1 else int(kept * len(whole))])
    with pytest.raises(DataError, match=r"cannot read '.*cut\.tif'"):
        read_pixels(path)


def test_the_memory_of_a_file_is_limited_before_it_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr("finetune.data.images.decode.MAX_PIXELS", 100)
    assert read_header(write_tiff(tmp_path / "fits.tif", np.zeros((4, 6), np.uint8))).height == 4
    large = write_tiff(tmp_path / "large.tif", np.zeros((6, 6, 8), np.uint16), extra=(0,) * 7)
    with pytest.raises(DataError, match=r"large\.tif' claims to have 6 x 6 pixels of 16 bytes, .* 18 pixels are read"):
        read_pixels(large)


def test_the_memory_of_a_tile_is_limited_too(tmp_path, monkeypatch):
    tifffile = pytest.importorskip("tifffile")
    pixels = np.zeros((4, 4, 5), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack", planarconfig="contig", tile=(16, 16))
    monkeypatch.setattr("finetune.data.images.decode.MAX_PIXELS", 100)
    with pytest.raises(DataError, match=r"a\.tif' claims to have 16 x 16 pixels of 5 bytes"):
        read_pixels(tmp_path / "a.tif")


def test_no_line_of_pillow_is_logged_about_bands_that_it_does_not_read(tmp_path, caplog):
    pytest.importorskip("tifffile")
    read_pixels(write_tiff(tmp_path / "a.tif", ramp(np.uint16, 8), extra=(0,) * 7))
    assert not caplog.records

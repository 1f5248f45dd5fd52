import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from finetune.data.images.formats import read_header, read_pixels
from finetune.data.records import DataError

COLOR_TYPES = {2: 4, 3: 2, 4: 6}  # of PNG, by the number of bands


def write_png(path, pixels):
    """Write uint16 pixels (H, W, bands), which Pillow does not write."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width, bands = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", width, height, 16, COLOR_TYPES[bands], 0, 0, 0)
    content = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    return path


@pytest.mark.parametrize(("bands", "colors", "alpha"), [(3, 3, False), (4, 3, True), (2, 1, True)])
def test_all_sixteen_bits_of_a_color_are_kept(tmp_path, bands, colors, alpha):
    pixels = np.random.default_rng(0).integers(0, 65_536, (5, 7, bands), dtype=np.uint16)
    path = write_png(tmp_path / "a.png", pixels)
    header, read = read_header(path), read_pixels(path)
    assert (header.height, header.width, header.colors, header.alpha, header.dtype) == (5, 7, colors, alpha, np.uint16)
    assert (read.colors, read.alpha) == (colors, alpha)
    assert np.array_equal(read.values, pixels)


def test_sixteen_bit_gray_is_read_as_it_is(tmp_path):
    pixels = np.array([[0, 256, 65_535]], dtype=np.uint16)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(read_pixels(tmp_path / "a.png").values[..., 0], pixels)
    assert read_header(tmp_path / "a.png").dtype == np.uint16


@pytest.mark.parametrize("kept", [20, 26, 60, 300])
def test_a_truncated_file_is_named(tmp_path, kept):
    path = write_png(tmp_path / "cut.png", np.random.default_rng(0).integers(0, 65_536, (9, 9, 3), dtype=np.uint16))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"cannot read '.*cut\.png'"):
        read_pixels(path)


def test_the_memory_of_a_file_is_limited_before_it_is_decoded(tmp_path, monkeypatch):
    path = write_png(tmp_path / "large.png", np.zeros((10, 11, 3), np.uint16))
    monkeypatch.setattr("finetune.data.images.decode.MAX_PIXELS", 100)
    with pytest.raises(DataError, match=r"large\.png' claims to have 11 x 10 pixels"):
        read_pixels(path)

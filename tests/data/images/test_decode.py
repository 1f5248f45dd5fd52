import numpy as np
import pytest
from PIL import Image

from finetune.data.images.decode import MAX_PIXELS, open_image
from finetune.data.images.formats import read_header
from finetune.data.images.reading import read_image
from finetune.data.masks.reading import read_mask
from finetune.data.records import DataError


def ramp(height: int = 4, width: int = 6) -> np.ndarray:
    return np.arange(height * width, dtype=np.uint8).reshape(height, width)


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def test_exif_orientation_is_applied_to_image_and_mask(write):
    # orientation 6: stored on its side, to be turned clockwise by 90 degrees
    image = read_image(write("a.png", ramp(), exif=exif(6)), 1)
    mask = read_mask(write("b.png", ramp(), exif=exif(6)))
    assert np.array_equal(image[0].numpy(), np.rot90(ramp(), -1))
    assert np.array_equal(mask.numpy(), np.rot90(ramp(), -1))


@pytest.mark.parametrize("reader", [read_image, read_mask])
def test_broken_files_are_named(write, tmp_path, reader):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for name in ("cut.jpg", "cut.png"):
        whole = write(name, noise)
        whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        with pytest.raises(DataError, match=f"cannot read .*{name}"):
            reader(whole)
    (tmp_path / "text.png").write_text("not an image")
    for name in ("text.png", "missing.png"):
        with pytest.raises(DataError, match=f"cannot read .*{name}"):
            reader(tmp_path / name)


def test_a_decompression_bomb_is_named(write, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    path = write("bomb.png", 0, size=(8, 8))
    for read in (read_image, read_header, read_mask):
        with pytest.raises(DataError, match=r"bomb\.png' has more than 20 pixels.* data\.tiles=2048"):
            read(path)


@pytest.mark.parametrize("limit", [None, 10**12])
def test_nothing_in_the_process_lifts_the_limit_on_pixels(write, monkeypatch, limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    monkeypatch.setattr("finetune.data.images.decode.MAX_PIXELS", 80)
    assert read_image(write("fits.png", 0, size=(8, 10))).shape == (3, 8, 10)
    with pytest.raises(DataError, match=r"large\.png' claims to have 9 x 9 pixels, .* 80 pixels .*into tiles"):
        read_image(write("large.png", 0, size=(9, 9)))


def test_the_limit_on_pixels_is_where_pillow_itself_stops_by_default():
    assert 2 * Image.MAX_IMAGE_PIXELS == MAX_PIXELS


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_size_of_an_image_is_that_after_its_exif_orientation(write, suffix, orientation):
    compression = {"compression": "tiff_lzw"} if suffix == "tif" else {}  # Pillow scrambles others that are turned
    path = write(f"a.{suffix}", size=(4, 6), exif=exif(orientation), **compression)
    assert read_header(path).upright_size == ((6, 4) if orientation in (6, 8) else (4, 6))
    assert read_header(path).upright_size == tuple(read_image(path).shape[-2:])


def test_the_size_of_an_image_is_read_without_decoding_it(write):
    path = write("a.png", np.random.default_rng(0).integers(0, 256, (400, 600), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:1000])
    assert read_header(path).upright_size == (400, 600)
    path.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"cannot read '.*a\.png'"):
        read_header(path)


def test_a_jpeg_that_is_turned_upright_is_still_known_as_one(write):
    assert open_image(write("a.jpg", ramp(), exif=exif(6))).format == "JPEG"

import numpy as np
import pytest
from PIL import Image

from finetune.data.images.formats import read_header, read_pixels
from finetune.data.images.pixels import upright


def test_the_first_frame_of_a_gif_is_read(tmp_path):
    frames = [Image.fromarray(np.full((4, 6), value, dtype=np.uint8)) for value in (60, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert np.unique(read_pixels(tmp_path / "a.gif").values).tolist() == [60]


@pytest.mark.parametrize(
    ("mode", "colors", "alpha"),
    [("1", 1, False), ("L", 1, False), ("LA", 1, True), ("P", 3, False), ("RGB", 3, False), ("RGBA", 3, True)],
)
def test_a_header_agrees_with_the_pixels(tmp_path, mode, colors, alpha):
    Image.new(mode, (6, 4)).save(tmp_path / "a.png")
    header, pixels = read_header(tmp_path / "a.png"), read_pixels(tmp_path / "a.png")
    assert (header.colors, header.alpha) == (pixels.colors, pixels.alpha) == (colors, alpha)
    assert (header.height, header.width) == pixels.values.shape[:2] == (4, 6)
    assert not header.is_deep


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.webp"])
def test_every_orientation_is_applied_as_pillow_does(tmp_path, name, orientation):
    gray = np.add.outer(np.arange(24) * 8, np.arange(16) * 3).astype(np.uint8)
    tags = Image.Exif()
    tags[0x0112] = orientation
    Image.fromarray(gray).save(tmp_path / name, exif=tags)
    header, pixels = read_header(tmp_path / name), read_pixels(tmp_path / name).values
    expected = upright(gray, orientation)
    assert (header.orientation, header.upright_size) == (orientation, expected.shape)
    assert pixels.shape[:2] == expected.shape
    assert np.abs(pixels[..., 0].astype(int) - expected).max() <= 12  # JPEG and WebP are lossy


@pytest.mark.parametrize(
    ("orientation", "size", "unnoticed"),
    [(1, (8, 8), False), (3, (8, 10), True), (6, (8, 10), False), (6, (8, 8), True)],
)
def test_a_rotation_is_unnoticed_where_the_size_stays(tmp_path, orientation, size, unnoticed):
    tags = Image.Exif()
    tags[0x0112] = orientation
    Image.new("L", size[::-1]).save(tmp_path / "a.jpg", exif=tags)
    assert read_header(tmp_path / "a.jpg").may_be_turned_unnoticed == unnoticed


def test_deep_gray_pixels_are_not_clipped_for_their_transparency(tmp_path):
    values = np.linspace(0, 60_000, 24).reshape(4, 6).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png", transparency=0)
    assert Image.open(tmp_path / "a.png").has_transparency_data
    header, pixels = read_header(tmp_path / "a.png"), read_pixels(tmp_path / "a.png")
    assert header.is_deep
    assert not header.alpha
    assert np.array_equal(pixels.values[..., 0], values)

import numpy as np
import pytest
import torch
from PIL import Image

from finetune.data.images.reading import read_image
from finetune.data.records import DataError


def test_rgb_is_read_channels_first(write):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    image = read_image(write("a.png", pixels))
    assert image.dtype == torch.uint8
    assert image.is_contiguous()
    assert np.array_equal(image.numpy(), pixels.transpose(2, 0, 1))


@pytest.mark.filterwarnings("error")  # torch's about memory that is read-only, as Pillow's is
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_the_readers_own(write, channels):
    image = read_image(write("a.png", np.full((4, 6) if channels == 1 else (4, 6, 3), 7, dtype=np.uint8)), channels)
    assert (image.add_(1) == 8).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_comes_out_as_gray_and_as_color(tmp_path, channels):
    source = Image.fromarray(np.full((4, 6, 3), 77, dtype=np.uint8))
    for mode, ending in {"1": "png", "L": "png", "P": "png", "LA": "png", "RGBA": "png", "CMYK": "tif"}.items():
        path = tmp_path / f"{mode}.{ending}"
        source.convert(mode, palette=Image.Palette.ADAPTIVE).save(path)
        image = read_image(path, channels)
        assert image.shape == (channels, 4, 6)
        if mode != "1":
            assert (image.int() - 77).abs().max() <= 1


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_the_fourth_channel_where_there_is_one(tmp_path, mode):
    image = Image.fromarray(np.dstack([np.full((4, 6, 3), 77), np.full((4, 6), 9)]).astype(np.uint8))
    image.convert(mode).save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif", 4)[:, 0, 0].tolist() == [77, 77, 77, 9]


@pytest.mark.parametrize(
    ("mode", "channels", "message"),
    [
        ("RGB", 4, "has 3 bands, but the model takes 4 channels"),
        ("L", 4, "has 1 band, but the model takes 4 channels"),
        ("RGBA", 5, "has 4 bands, the last of them alpha, but the model takes 5 channels"),
        ("RGB", 2, "has 3 bands, but the model takes 2 channels"),
        ("CMYK", 4, "has 3 bands, but the model takes 4 channels"),
    ],
)
def test_no_channel_is_made_up(tmp_path, mode, channels, message):
    Image.new(mode, (6, 4)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=rf"image '.*a\.tif' {message}"):
        read_image(tmp_path / "a.tif", channels)


def test_color_becomes_the_gray_that_pillow_makes_of_it(write):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(pixels).convert("L"))
    assert np.array_equal(read_image(write("a.png", pixels), 1)[0].numpy(), expected)


def test_sixteen_bit_gray_is_scaled_by_the_range_and_rounded(tmp_path):
    values = np.array([[0, 257, 128 * 257], [300, 40000, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    expected = np.round(values / 65535 * 255).astype(np.uint8)
    assert np.array_equal(read_image(tmp_path / "deep.png", 1, [0, 65535])[0].numpy(), expected)
    assert np.array_equal(read_image(tmp_path / "deep.png", 3, [0, 65535])[2].numpy(), expected)
    assert read_image(tmp_path / "deep.png", 1, [257, 300]).flatten().tolist() == [0, 0, 255, 255, 255, 255]


@pytest.mark.parametrize(("dtype", "depth"), [(np.uint16, "16-bit"), (np.float32, "32-bit floating-point")])
def test_more_than_eight_bit_needs_a_range(tmp_path, dtype, depth):
    Image.fromarray(np.zeros((2, 2), dtype=dtype)).save(tmp_path / "f.tif")
    with pytest.raises(DataError, match=rf"image '.*f\.tif' holds {depth} values, .*data\.value_range=\[low,high\]"):
        read_image(tmp_path / "f.tif")


def test_eight_bit_images_are_not_changed_by_a_range(write):
    assert read_image(write("a.png", 77), 1, [0, 65535]).unique().tolist() == [77]


@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp", "bmp", "gif", "ppm", "jp2"])
def test_every_format_is_read_whatever_its_name(tmp_path, ending):
    Image.fromarray(np.full((16, 20, 3), 77, dtype=np.uint8)).save(tmp_path / f"a.{ending}")
    (tmp_path / f"a.{ending}").rename(tmp_path / "renamed.png")
    image = read_image(tmp_path / "renamed.png")
    assert image.shape == (3, 16, 20)
    assert (image.int() - 77).abs().max() <= 2


def test_twelve_bit_data_in_a_sixteen_bit_file_equals_its_eight_bit_copy(write, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60), dtype=np.uint8)
    Image.fromarray(pixels.astype(np.uint16) * 16).save(tmp_path / "deep.png")
    assert torch.equal(read_image(tmp_path / "deep.png", 3, (0, 4080)), read_image(write("flat.png", pixels), 3))

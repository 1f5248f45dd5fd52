import numpy as np
import pytest
import torch
from PIL import Image

from finetune.data.images import read_image
from finetune.data.records import DataError


def test_rgb_is_read_channels_first(write):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    image = read_image(write("a.png", pixels))
    assert image.dtype == torch.uint8
    assert image.is_contiguous()
    assert np.array_equal(image.numpy(), pixels.transpose(2, 0, 1))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_every_mode_comes_out_with_the_asked_channels(tmp_path, channels):
    source = Image.fromarray(np.full((4, 6, 3), 77, dtype=np.uint8))
    for mode, ending in {"1": "png", "L": "png", "P": "png", "LA": "png", "RGBA": "png", "CMYK": "tif"}.items():
        path = tmp_path / f"{mode}.{ending}"
        source.convert(mode, palette=Image.Palette.ADAPTIVE).save(path)
        image = read_image(path, channels)
        assert image.shape == (channels, 4, 6)
        if mode != "1":
            assert (image[: min(channels, 3)].int() - 77).abs().max() <= 1
    with pytest.raises(ValueError, match="channels=2"):
        read_image(tmp_path / "L.png", 2)


def test_sixteen_bit_gray_is_scaled_and_not_clipped(tmp_path):
    values = np.array([[0, 257, 128 * 257], [300, 40000, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    expected = np.round(values / 65535 * 255).astype(np.uint8)
    assert np.array_equal(read_image(tmp_path / "deep.png", 1)[0].numpy(), expected)
    assert np.array_equal(read_image(tmp_path / "deep.png", 3)[2].numpy(), expected)


def test_floating_point_images_are_refused(tmp_path):
    Image.fromarray(np.zeros((2, 2), dtype=np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(DataError, match="unknown range"):
        read_image(tmp_path / "f.tif")


@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp", "bmp", "gif", "ppm", "jp2"])
def test_every_format_is_read_whatever_its_name(tmp_path, ending):
    Image.fromarray(np.full((16, 20, 3), 77, dtype=np.uint8)).save(tmp_path / f"a.{ending}")
    (tmp_path / f"a.{ending}").rename(tmp_path / "renamed.png")
    image = read_image(tmp_path / "renamed.png")
    assert image.shape == (3, 16, 20)
    assert (image.int() - 77).abs().max() <= 2

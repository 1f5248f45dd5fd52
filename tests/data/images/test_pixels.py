import numpy as np
import pytest

from finetune.data.images.pixels import Pixels, fits, with_channels
from finetune.data.records import DataError


@pytest.mark.parametrize("colors", range(1, 6))
@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("channels", range(1, 8))
def test_an_image_fits_exactly_where_its_channels_can_be_made(colors, alpha, channels):
    values = np.random.default_rng(0).integers(0, 256, (3, 4, colors + alpha), dtype=np.uint8)
    image = Pixels(values, alpha)
    if fits(colors, alpha, channels):
        assert with_channels(image, channels, "it").shape == (3, 4, channels)
    else:
        with pytest.raises(DataError, match=rf"it has {colors + alpha} band.* the model takes {channels} channels"):
            with_channels(image, channels, "it")


def test_bands_keep_their_order_and_gray_is_repeated():
    bands = np.arange(10, dtype=np.uint8).reshape(1, 2, 5)
    assert np.array_equal(with_channels(Pixels(bands), 5, "it"), bands)
    assert np.array_equal(with_channels(Pixels(bands, alpha=True), 4, "it"), bands[..., :4])
    gray = with_channels(Pixels(bands[..., :2], alpha=True), 4, "it")
    assert gray.tolist() == [[[0, 0, 0, 1], [5, 5, 5, 6]]]


@pytest.mark.parametrize(("dtype", "highest"), [(np.uint8, 255), (np.uint16, 65_535), (np.float32, 1.0)])
def test_alpha_is_opaque_at_the_highest_value(dtype, highest):
    values = np.full((1, 2, 4), highest, dtype=dtype)
    assert Pixels(values, alpha=True).is_opaque
    values[0, 0, 3] = 0
    assert not Pixels(values, alpha=True).is_opaque
    assert Pixels(values).is_opaque

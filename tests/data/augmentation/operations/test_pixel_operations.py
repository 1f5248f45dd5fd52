"""Noise, sharpening, JPEG and cutout, each against its definition."""

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from finetune.data.augmentation.operations import cutout, cutout_box, gaussian_blur, gaussian_noise, jpeg, sharpen
from finetune.data.synthetic.drawing import draw

IMAGE, MASK = draw((40, 56))


def test_noise_has_the_asked_deviation_and_is_independent_in_each_band() -> None:
    flat = torch.full((4, 100, 100), 100, dtype=torch.uint8)
    noisy = gaussian_noise(flat, 5.0, torch.Generator().manual_seed(0)).float()
    assert np.allclose(noisy.std((1, 2)), 5.0, rtol=0.03)
    assert np.allclose(noisy.mean((1, 2)), 100.0, atol=0.2)
    assert np.abs(np.corrcoef(noisy.view(4, -1).numpy()) - np.eye(4)).max() < 0.03
    assert torch.equal(noisy, gaussian_noise(flat, 5.0, torch.Generator().manual_seed(0)).float())
    assert (flat == 100).all()


def test_noise_stays_black_and_white_at_the_ends() -> None:
    ends = torch.tensor([0, 255], dtype=torch.uint8)[:, None, None].expand(-1, 50, 50)
    dark, bright = gaussian_noise(ends, 20.0, torch.Generator().manual_seed(0))
    assert 0.4 < (dark == 0).float().mean() < 0.6
    assert 0.4 < (bright == 255).float().mean() < 0.6
    assert dark.max() < 128 < bright.min()


def test_sharpening_enlarges_the_distance_to_the_blurred_image() -> None:
    before = IMAGE.clone()
    image, blurred = IMAGE.double().numpy(), gaussian_blur(IMAGE, 1.0).double().numpy()
    expected = np.clip(image + 0.7 * (image - blurred), 0, 255)
    assert np.abs(sharpen(IMAGE, 0.7).double().numpy() - expected).max() <= 0.51
    assert torch.equal(IMAGE, before)


@pytest.mark.parametrize("quality", [10, 90])
def test_jpeg_is_what_pillow_writes_and_reads(quality: int) -> None:
    for image, pixels in ((IMAGE, IMAGE.permute(1, 2, 0).numpy()), (IMAGE[:1], IMAGE[0].numpy())):
        file = BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=quality)
        expected = np.asarray(Image.open(file)).reshape(40, 56, -1)
        assert np.array_equal(jpeg(image, quality).permute(1, 2, 0).numpy(), expected)


def test_jpeg_leaves_other_numbers_of_channels_alone() -> None:
    for channels in (2, 4, 6):
        image = IMAGE[:1].expand(channels, -1, -1)
        assert torch.equal(jpeg(image, 10), image)


def test_cutout_covers_its_box_with_the_mean_and_nothing_else() -> None:
    image, mask = cutout(IMAGE, MASK, (3, 20, 10, 50), label=9)
    inside = np.zeros((40, 56), dtype=bool)
    inside[3:20, 10:50] = True
    mean = np.rint(IMAGE.numpy().mean((1, 2), dtype=np.float64)).astype(np.uint8)
    assert np.array_equal(image.numpy(), np.where(inside, mean[:, None, None], IMAGE.numpy()))
    assert np.array_equal(mask.numpy(), np.where(inside, 9, MASK.numpy()))
    assert torch.equal(cutout(IMAGE, MASK, (3, 20, 10, 50))[1], MASK)


@pytest.mark.parametrize(
    ("area", "ratio", "position", "expected"),
    [
        (0.25, 1.0, (0.0, 0.0), (0, 20, 0, 40)),
        (0.25, 1.0, (1.0, 0.5), (20, 40, 20, 60)),
        (0.25, 4.0, (0.5, 1.0), (0, 40, 60, 80)),
        (1.0, 2.0, (0.3, 0.5), (0, 40, 12, 69)),
        (1e-9, 1.0, (1.0, 1.0), (39, 40, 79, 80)),
    ],
)
def test_a_box_has_its_area_and_stays_inside(area, ratio, position, expected) -> None:
    assert cutout_box((40, 80), area, ratio, position) == expected

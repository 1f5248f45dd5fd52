import colorsys

import pytest
import torch

from finetune.data.augmentation.color_jitter import ColorJitter

BYTES = torch.randint(60, 140, (3, 7, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
IMAGE = BYTES.float()  # whose changes below stay within 0 to 255


def gray(image: torch.Tensor) -> torch.Tensor:
    return 0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]


def assert_close(found: torch.Tensor, expected: torch.Tensor, most: float = 0.6) -> None:
    assert found.dtype == torch.uint8
    assert (found.float() - expected).abs().max() <= most


def test_nothing_changes_nothing():
    assert torch.equal(ColorJitter()(BYTES), BYTES)


def test_each_part_is_its_textbook_formula():
    mean, own = gray(IMAGE).mean(), gray(IMAGE)
    assert_close(ColorJitter(brightness=1.3)(BYTES), 1.3 * IMAGE)
    assert_close(ColorJitter(contrast=0.6)(BYTES), 0.6 * IMAGE + 0.4 * mean)
    assert_close(ColorJitter(saturation=0.3)(BYTES), 0.3 * IMAGE + 0.7 * own)


def test_all_together_are_the_parts_one_after_the_other():
    steps = BYTES
    for step in (
        ColorJitter(brightness=0.8),
        ColorJitter(contrast=1.2),
        ColorJitter(saturation=0.7),
        ColorJitter(hue=0.1),
    ):
        steps = step(steps)
    assert_close(ColorJitter(0.8, 1.2, 0.7, 0.1)(BYTES), steps.float(), 2)  # each of which rounds


def test_hue_keeps_gray_and_comes_back_after_a_full_circle():
    third = ColorJitter(hue=1 / 3)
    assert (gray(third(BYTES).float()) - gray(IMAGE)).abs().max() < 0.6
    assert_close(third(third(third(BYTES))), IMAGE, 2)


def test_values_beyond_black_and_white_are_clipped():
    pixels = torch.tensor([10, 200, 250], dtype=torch.uint8).expand(3, 1, 3)
    assert ColorJitter(brightness=2.0)(pixels)[0].tolist() == [[20, 255, 255]]
    assert ColorJitter(2.0, saturation=0.5)(pixels)[0].tolist() == [[20, 255, 255]]


@pytest.mark.parametrize("hue", [0.1, -0.1])
def test_hue_turns_the_same_way_as_hsv(hue):
    red = torch.tensor([200, 60, 60], dtype=torch.uint8).view(3, 1, 1)
    ours = ColorJitter(hue=hue)(red).flatten().div(255).clamp(0, 1).tolist()
    start, end = colorsys.rgb_to_hsv(200 / 255, 60 / 255, 60 / 255)[0], colorsys.rgb_to_hsv(*ours)[0]
    turned = (end - start + 0.5) % 1 - 0.5
    assert turned == pytest.approx(hue, abs=0.06)


@pytest.mark.parametrize("channels", [1, 4, 6])
def test_other_channels_get_brightness_and_contrast_only(channels):
    image = torch.randint(256, (channels, 4, 4), dtype=torch.uint8)
    expected = 0.5 * (1.2 * image.float()) + 0.5 * (1.2 * image.float()).mean()
    assert_close(ColorJitter(1.2, 0.5, 0.1, 0.3)(image), expected)

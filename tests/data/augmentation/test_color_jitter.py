import colorsys

import pytest
import torch

from finetune.data.augmentation.color_jitter import ColorJitter

IMAGE = torch.rand(3, 7, 9, generator=torch.Generator().manual_seed(0)) * 255


def gray(image: torch.Tensor) -> torch.Tensor:
    return 0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]


def test_nothing_changes_nothing():
    assert torch.equal(ColorJitter()(IMAGE), IMAGE)


def test_each_part_is_its_textbook_formula():
    assert torch.allclose(ColorJitter(brightness=1.3)(IMAGE), 1.3 * IMAGE)
    mean = gray(IMAGE).mean()
    assert torch.allclose(ColorJitter(contrast=0.6)(IMAGE), 0.6 * IMAGE + 0.4 * mean, atol=1e-2)
    own = gray(IMAGE)
    assert torch.allclose(ColorJitter(saturation=0.3)(IMAGE), 0.3 * IMAGE + 0.7 * own, atol=1e-2)


def test_all_together_are_the_parts_one_after_the_other():
    whole = ColorJitter(0.8, 1.2, 0.7, 0.1)(IMAGE)
    steps = IMAGE
    for step in (
        ColorJitter(brightness=0.8),
        ColorJitter(contrast=1.2),
        ColorJitter(saturation=0.7),
        ColorJitter(hue=0.1),
    ):
        steps = step(steps)
    assert torch.allclose(whole, steps, atol=0.05)


def test_hue_keeps_gray_and_comes_back_after_a_full_circle():
    third = ColorJitter(hue=1 / 3)
    assert torch.allclose(gray(third(IMAGE)), gray(IMAGE), atol=0.05)
    assert torch.allclose(third(third(third(IMAGE))), IMAGE, atol=0.1)


@pytest.mark.parametrize("hue", [0.1, -0.1])
def test_hue_turns_the_same_way_as_hsv(hue):
    red = torch.tensor([200.0, 60.0, 60.0]).view(3, 1, 1)
    ours = ColorJitter(hue=hue)(red).flatten().div(255).clamp(0, 1).tolist()
    start, end = colorsys.rgb_to_hsv(200 / 255, 60 / 255, 60 / 255)[0], colorsys.rgb_to_hsv(*ours)[0]
    turned = (end - start + 0.5) % 1 - 0.5
    assert turned == pytest.approx(hue, abs=0.06)


@pytest.mark.parametrize("channels", [1, 4, 6])
def test_other_channels_get_brightness_and_contrast_only(channels):
    image = torch.rand(channels, 4, 4) * 255
    expected = 0.5 * (2 * image) + 0.5 * (2 * image).mean()
    assert torch.allclose(ColorJitter(2.0, 0.5, 0.1, 0.3)(image), expected, atol=1e-2)

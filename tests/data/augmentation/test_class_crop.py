from collections import Counter

import numpy as np
import pytest
import torch

from finetune.data.augmentation.class_crop import class_counts, position_around, random_pixel, rare_class
from finetune.data.augmentation.crop import CropTransform
from finetune.data.augmentation.transforms import Augment

TARGET = torch.zeros(30, 40, dtype=torch.uint8)
TARGET[:2] = 255
TARGET[10:14, 10:15] = 1  # 20 pixels
TARGET[20:22, 30:35] = 2  # 10 pixels; class 0 has 1090


def label(where: torch.Tensor, target: torch.Tensor = TARGET) -> int:
    (found,) = target[where].unique().tolist()
    return found


def test_classes_are_drawn_inversely_to_their_pixels() -> None:
    draws = torch.rand(4000, generator=torch.Generator().manual_seed(0)).tolist()
    counts = Counter(label(rare_class(TARGET, draw)) for draw in draws)
    weights = np.array([1 / 1090, 1 / 20, 1 / 10])
    expected = weights / weights.sum()
    assert np.allclose([counts[k] / 4000 for k in range(3)], expected, atol=0.02)
    assert label(rare_class(TARGET, 0.0)) == 0
    assert label(rare_class(TARGET, 1.0)) == 2
    largest = {label(rare_class(TARGET, draw, leave_out_largest=True)) for draw in draws}
    assert largest == {1, 2}


def test_channels_are_classes_and_ignored_pixels_are_none() -> None:
    channels = torch.stack([(k == TARGET).byte() for k in (1, 2, 7)])
    channels[1, 0] = 255
    assert class_counts(channels).tolist() == [20, 10, 0]
    for draw in (0.0, 0.3, 0.5, 0.99):
        assert torch.equal(rare_class(channels, draw), rare_class(torch.where(TARGET == 0, 255, TARGET), draw))
    assert rare_class(torch.full((4, 4), 255, dtype=torch.uint8), 0.5) is None
    assert rare_class(torch.zeros(2, 4, 4, dtype=torch.uint8), 0.5) is None


def test_every_pixel_of_the_class_can_be_drawn() -> None:
    where = TARGET == 2
    draws = [(k + 0.5) / 10 for k in range(10)]
    assert {random_pixel(where, draw) for draw in draws} == {tuple(p) for p in where.nonzero().tolist()}
    assert random_pixel(where, 1.0) == (21, 34)


@pytest.mark.parametrize("scale", [0.6, 1.0, 2.5])
@pytest.mark.parametrize("draw", [0.0, 0.4, 1.0])
def test_the_crop_shows_the_pixel_in_its_middle_half(scale: float, draw: float) -> None:
    for pixel in (60, 100, 133):
        position = position_around(pixel, 200, scale, 40, draw)
        mask = torch.zeros(200, 200, dtype=torch.uint8)
        mask[pixel - 1 : pixel + 2, pixel - 1 : pixel + 2] = 1  # wide enough to be seen when it shrinks
        view = CropTransform((200, 200), (40, 40), scale, 0.0, (position, position))
        seen = (view.mask(mask) == 1).nonzero().float().mean(0)
        assert (seen[0] + 0.5) / 40 == pytest.approx(0.25 + draw / 2, abs=0.04 * max(1, scale))
    assert position_around(3, 20, 1.0, 40, draw) is None
    assert position_around(0, 200, 1.0, 40, draw) == 0.0
    assert position_around(199, 200, 1.0, 40, draw) == 1.0


def test_augment_places_crops_around_rare_classes() -> None:
    target = torch.zeros(300, 400, dtype=torch.uint8)
    target[40:48, 350:358] = 3
    image = torch.zeros(2, 300, 400, dtype=torch.uint8)
    channels = torch.stack([target == 3, target == 8]).byte()

    def seen(chance: float, target: torch.Tensor, rotation: float = 0.0) -> float:
        augment = Augment(64, scale=(0.8, 1.6), rotation=rotation, class_crop=chance)
        generator = torch.Generator().manual_seed(0)
        label = 3 if target.dim() == 2 else 1
        return sum(bool((augment(image, target, generator)[1] == label).any()) for _ in range(200)) / 200

    assert seen(0.0, target) < 0.2
    assert 0.45 < seen(0.5, target) < 0.7
    assert seen(1.0, channels) == 1
    assert seen(1.0, channels, rotation=180) == 1
    assert seen(1.0, torch.full_like(target, 255)) == 0

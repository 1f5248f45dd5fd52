"""Copy-paste of objects: image and masks change together, and what is covered is cut out."""

import pytest
import torch
from torch import Tensor

from finetune.data.augmentation.mix import Pair
from finetune.data.augmentation.paste_objects import PasteObjects, paste
from finetune.data.dataset import counted_generator
from finetune.data.records import DataError
from finetune.instances import Planes, from_planes

SIZE = (16, 16)


def sample(value: int, *boxes: tuple[int, int, int]) -> Pair:
    """Return an image of one value with square objects: top, left and side of each, of class 0, 1, ..."""
    planes = Planes(*SIZE)
    for label, (top, left, side) in enumerate(boxes):
        mask = torch.zeros(SIZE, dtype=torch.bool)
        mask[top : top + side, left : left + side] = True
        planes.add(mask, label)
    return torch.full((3, *SIZE), value, dtype=torch.uint8), planes.finish()


def sides(planes: Tensor) -> list[tuple[int, int]]:
    objects = from_planes(planes)
    return sorted(zip(objects.labels.tolist(), objects.masks.flatten(1).sum(1).tolist(), strict=True))


def test_a_pasted_object_brings_its_pixels_and_cuts_what_it_covers() -> None:
    image, planes = paste(sample(10, (0, 0, 8)), sample(20, (4, 4, 8)), counted_generator(0))
    assert sides(planes) == [(0, 64 - 16), (0, 64)]
    pasted = from_planes(planes).masks[1]
    assert image[0][pasted].unique().tolist() == [20]
    assert image[0][~pasted].unique().tolist() == [10]


def test_an_object_that_is_covered_wholly_is_gone() -> None:
    _, planes = paste(sample(10, (5, 5, 2)), sample(20, (4, 4, 8)), counted_generator(0))
    assert sides(planes) == [(0, 64)]


def test_half_of_the_objects_are_pasted_and_their_ignored_pixels_stay_behind() -> None:
    partner = sample(20, (0, 0, 2), (4, 4, 2), (8, 8, 2))
    partner[1][:, 15] = 255
    _, planes = paste(sample(10), partner, counted_generator(1))
    assert len(from_planes(planes)) == 2
    assert not (planes == 255).any()


def test_nothing_is_pasted_of_an_image_without_objects() -> None:
    own = sample(10, (0, 0, 8))
    image, planes = paste(own, sample(20), counted_generator(0))
    assert torch.equal(image, own[0])
    assert sides(planes) == [(0, 64)]


def test_the_probability_decides_and_the_generator_makes_it_repeatable() -> None:
    own, partner = sample(10), sample(20, (4, 4, 8))
    mixed = [bool(PasteObjects(0.5)(own, lambda: partner, counted_generator(n))[1].any()) for n in range(200)]
    assert mixed == [bool(PasteObjects(0.5)(own, lambda: partner, counted_generator(n))[1].any()) for n in range(200)]
    assert 75 < sum(mixed) < 125
    assert PasteObjects(0.0)(own, lambda: partner, counted_generator(0)) is own


def test_a_partner_of_another_size_and_a_wrong_probability_are_refused() -> None:
    other = torch.zeros(3, 8, 8, dtype=torch.uint8), Planes(8, 8).finish()
    with pytest.raises(DataError, match="16x16 and 8x8"):
        PasteObjects(1.0)(sample(10), lambda: other, counted_generator(0))
    with pytest.raises(ValueError, match=r"copy_paste=1.5"):
        PasteObjects(1.5)

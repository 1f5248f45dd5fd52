"""Cut-out objects against whole masks."""

import numpy as np
import torch

from finetune.instances import as_objects, crops_of, join_crops, objects_of


def random_masks(count: int = 5, height: int = 9, width: int = 12) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).random((count, height, width)) < 0.1)


def test_objects_come_back_from_their_crops() -> None:
    objects = objects_of(random_masks(), torch.arange(5), torch.rand(5))
    again = as_objects(crops_of(objects), objects.size)
    assert (again.masks == objects.masks).all()
    assert (again.boxes == objects.boxes).all()
    assert again.labels.tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(again.scores, objects.scores)


def test_no_objects_have_masks_of_the_size_of_the_image() -> None:
    none = as_objects([], (9, 12))
    assert (none.masks.shape, none.boxes.shape, len(none)) == ((0, 9, 12), (0, 4), 0)
    assert crops_of(none) == []


def test_a_crop_is_as_small_as_its_object_and_an_empty_one_is_left_out() -> None:
    masks = torch.zeros(2, 9, 12, dtype=torch.bool)
    masks[1, 3:5, 6] = True
    (crop,) = crops_of(objects_of(masks, torch.tensor([0, 1])), top=100, left=10)
    assert (crop.box, crop.area, crop.label) == ((16, 103, 17, 105), 2, 1)
    assert crop.mask.base is None  # or it would keep the mask of the image


def test_shared_pixels_and_joined_masks_are_those_of_whole_masks() -> None:
    masks = random_masks(8)
    crops = crops_of(objects_of(masks, torch.zeros(8, dtype=torch.int64)))
    for one, first in zip(crops, masks, strict=True):
        for other, second in zip(crops, masks, strict=True):
            assert one.shared(other) == int((first & second).sum())
            assert (as_objects([join_crops([one, other])], (9, 12)).masks[0] == first | second).all()


def test_crops_that_do_not_meet_share_nothing() -> None:
    masks = torch.zeros(3, 9, 12, dtype=torch.bool)
    masks[0, :2, :2] = masks[1, 5:, 7:] = masks[2, :2, 7:] = True
    one, other, beside = crops_of(objects_of(masks, torch.zeros(3, dtype=torch.int64)))
    assert one.shared(other) == other.shared(one) == one.shared(beside) == beside.shared(one) == 0

"""Objects as planes: what goes in comes out, whatever overlaps, and crops and flips change it as they do masks."""

import pytest
import torch
from torch import Tensor

from finetune.instances import IGNORED, Planes, boxes_of, from_planes

Found = list[tuple[list[int], int]]


def box(top: int, bottom: int, left: int, right: int, size: tuple[int, int] = (20, 30)) -> Tensor:
    mask = torch.zeros(size, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


def contents(masks: Tensor | list[Tensor], labels: list[int]) -> Found:
    """Return the pixels and the class of each object, in an order of their own."""
    return sorted((mask.flatten().nonzero().flatten().tolist(), k) for mask, k in zip(masks, labels, strict=True))


def test_any_number_of_objects_that_overlap_come_back_as_they_were() -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.randint(0, 16, (600, 2), generator=generator).tolist()
    masks, labels = [box(y, y + 4, x, x + 3) for y, x in corners], [index % 7 for index in range(600)]
    planes = Planes(20, 30)
    for mask, label in zip(masks, labels, strict=True):
        planes.add(mask, label)
    objects = from_planes(planes.finish())
    assert contents(objects.masks, objects.labels.tolist()) == contents(masks, labels)
    assert torch.equal(objects.boxes, boxes_of(objects.masks))
    assert objects.scores.eq(1).all()


def test_objects_that_do_not_overlap_share_a_pair_of_planes_up_to_254_of_them() -> None:
    planes = Planes(20, 30)
    for index in range(255):
        planes.add(box(index // 15, index // 15 + 1, 2 * (index % 15), 2 * (index % 15) + 1), 253)
    assert planes.finish().shape == (4, 20, 30)
    objects = from_planes(planes.finish())
    assert len(objects) == 255
    assert objects.labels.eq(253).all()


def test_flips_and_crops_of_the_planes_are_flips_and_crops_of_the_masks() -> None:
    planes, masks = Planes(20, 30), [box(2, 9, 3, 12), box(5, 15, 8, 20), box(17, 20, 0, 5)]
    for label, mask in enumerate(masks):
        planes.add(mask, label)
    changed = from_planes(planes.finish().flip(-1)[:, 4:16, 10:])
    expected = [(mask.flip(-1)[4:16, 10:], label) for label, mask in enumerate(masks)]
    kept = [(mask, label) for mask, label in expected if mask.any()]
    found = contents(changed.masks, changed.labels.tolist())
    assert found == contents([mask for mask, _ in kept], [label for _, label in kept])


def test_remnants_of_objects_are_left_out() -> None:
    planes = Planes(20, 30)
    planes.add(box(0, 3, 0, 3), 0)
    planes.add(box(10, 12, 10, 14), 1)
    objects = from_planes(planes.finish(), least_pixels=9)
    assert objects.labels.tolist() == [0]
    assert objects.ignored is not None
    assert torch.equal(objects.ignored, box(10, 12, 10, 14))  # neither an object nor background


def test_ignored_pixels_are_those_that_no_object_has() -> None:
    planes, crowd, thing = Planes(20, 30), box(0, 10, 0, 10), box(5, 15, 5, 15)
    planes.add(thing, 0)
    objects = from_planes(planes.finish(ignored=crowd))
    assert objects.ignored is not None
    assert torch.equal(objects.ignored, crowd & ~thing)
    assert torch.equal(objects.masks[0], thing)


def test_planes_without_objects_are_no_objects() -> None:
    objects = from_planes(Planes(4, 5).finish())
    assert (len(objects), objects.size) == (0, (4, 5))
    assert objects.boxes.shape == (0, 4)
    uncovered = torch.full((2, 4, 5), IGNORED, dtype=torch.uint8)
    assert len(from_planes(uncovered)) == 0


def test_an_empty_object_is_left_out_and_a_class_beyond_8_bits_refused() -> None:
    planes = Planes(4, 5)
    planes.add(torch.zeros(4, 5, dtype=torch.bool), 0)
    assert not planes.finish().any()
    with pytest.raises(ValueError, match="class 254: expected 0 to 253"):
        planes.add(torch.ones(4, 5, dtype=torch.bool), 254)


def test_boxes_touch_the_outermost_pixels() -> None:
    masks = torch.stack([box(2, 9, 3, 12), box(19, 20, 29, 30), torch.zeros(20, 30, dtype=torch.bool)])
    assert boxes_of(masks).tolist() == [[3, 2, 12, 9], [29, 19, 30, 20], [0, 0, 0, 0]]

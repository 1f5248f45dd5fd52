"""Random true and predicted objects, in which everything happens that a comparison of them must get right."""

import torch
from torch import Tensor

from finetune.instances import Objects, objects_of

SIZE = (120, 150)
Scenes = list[tuple[Objects, Objects]]


def scenes(seed: int, images: int = 6, classes: int = 3, most: int = 9, largest: int = 115) -> Scenes:
    """Return predicted and true objects of images; the last class is absent, and some images have ignored pixels.

    Args:
        seed: of everything.
        images: number of images; the first has no true objects, and nothing is predicted in the second.
        classes: number of classes.
        most: of the objects of an image.
        largest: side of an object, pixels; the area of the largest is above 96 x 96.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = [_scene(generator, classes, most, largest) for _ in range(images)]
    drawn[0] = drawn[0][0], drawn[0][1][torch.arange(0)]
    drawn[1] = drawn[1][0][torch.arange(0)], drawn[1][1]
    return drawn


def _scene(generator: torch.Generator, classes: int, most: int, largest: int) -> tuple[Objects, Objects]:
    def integers(low: int, high: int, count: int) -> Tensor:
        return torch.randint(low, high, (count,), generator=generator)

    number = int(integers(most // 2, most + 1, 1))
    sides = integers(4, largest, 2 * number).view(-1, 2)
    at_limits = torch.rand(number, generator=generator)
    sides[at_limits < 0.15], sides[at_limits > 0.8] = 32, 96  # both ends of the medium range
    corners = integers(0, 60, 2 * number).view(-1, 2)
    ellipses = torch.rand(number, generator=generator) < 0.5
    labels = integers(0, classes - 1, number)
    ignored = None
    if torch.rand(1, generator=generator) < 0.6:  # a rectangle, of which COCO's box is the region itself
        ignored = torch.zeros(SIZE, dtype=torch.bool)
        top, left = integers(0, 60, 2).tolist()
        ignored[top : top + 50, left : left + 70] = True
    true = objects_of(_shapes(corners, sides, ellipses), labels, ignored=ignored)

    # each object once or twice, moved a little, now and then in another class; and some that are nowhere
    sources = torch.cat([torch.arange(number), integers(0, number, number)])
    wild = torch.rand(len(sources), generator=generator) < 0.25
    moved = corners[sources] + integers(-2, 3, 2 * len(sources)).view(-1, 2)
    moved[wild] = integers(0, 90, 2 * int(wild.sum())).view(-1, 2)
    resized = (sides[sources] + integers(-2, 3, 2 * len(sources)).view(-1, 2)).clamp(min=3)
    guessed = torch.where(
        torch.rand(len(sources), generator=generator) < 0.15, integers(0, classes, 1), labels[sources]
    )
    scores = torch.rand(len(sources), generator=generator).mul(10).round().div(10)  # many are equal
    predicted = objects_of(_shapes(moved, resized, ellipses[sources]), guessed, scores)
    shift = torch.rand(len(sources), 4, generator=generator)
    boxes = predicted.boxes + (shift - 0.5)  # predicted boxes are not those of the masks
    return Objects(predicted.masks, predicted.labels, boxes, predicted.scores), true


def _shapes(corners: Tensor, sides: Tensor, ellipses: Tensor) -> Tensor:
    """Return filled ellipses and rectangles (N, H, W), bool, that are at least partly in the image."""
    y, x = (torch.arange(length).view(shape) for length, shape in zip(SIZE, ((1, -1, 1), (1, 1, -1)), strict=True))
    corners = corners.minimum(torch.tensor(SIZE) - 2)
    center = corners + (sides - 1) / 2
    offset = [2 * (axis - center[:, i, None, None]) / sides[:, i, None, None] for i, axis in enumerate((y, x))]
    inside = offset[0] ** 2 + offset[1] ** 2 <= 1, (offset[0].abs() < 1) & (offset[1].abs() < 1)
    masks = torch.where(ellipses[:, None, None], *inside)
    masks[~masks.flatten(1).any(1), 0, 0] = True
    return masks

"""Objects cut out of their image: many objects of a large image in little memory."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from finetune.instances.objects import Objects, boxes_of, objects_of


class ObjectCrop(NamedTuple):
    """An object, and the part of the image that its box covers.

    Attributes:
        top: row of the image that the first row of the mask is.
        left: column of the image that the first column of the mask is.
        mask: bool (h, w); its outermost rows and columns have pixels of the object.
        label: its class.
        score: confidence, 0 to 1.
    """

    top: int
    left: int
    mask: NDArray[np.bool_]
    label: int
    score: float

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, upper, right and lower edge, in pixels of the image."""
        return self.left, self.top, self.left + self.mask.shape[1], self.top + self.mask.shape[0]

    @property
    def area(self) -> int:
        """Number of pixels."""
        return int(self.mask.sum())

    def within(self, box: tuple[int, int, int, int]) -> NDArray[np.bool_]:
        """Return the part of the mask inside of a box, which has no rows or columns if they do not meet."""
        left, right = (max(0, x - self.left) for x in box[::2])
        top, bottom = (max(0, y - self.top) for y in box[1::2])
        return self.mask[top:bottom, left:right]

    def shared(self, other: "ObjectCrop") -> int:
        """Return the number of pixels that another object has, too."""
        return int((self.within(other.box) & other.within(self.box)).sum())


def crops_of(objects: Objects, top: int = 0, left: int = 0) -> list[ObjectCrop]:
    """Return the objects of a window as those of an image; empty ones are left out.

    Args:
        objects: of the window.
        top: row of the image at which the window begins.
        left: column of the image at which the window begins.
    """
    boxes = boxes_of(objects.masks).int().tolist()
    rows = zip(objects.masks, boxes, objects.labels.tolist(), objects.scores.tolist(), strict=True)
    return [
        # copied, as a view would keep the mask of the whole window
        ObjectCrop(top + y, left + x, mask[y:bottom, x:right].cpu().numpy().copy(), label, score)
        for mask, (x, y, right, bottom), label, score in rows
        if right > x
    ]


def join_crops(crops: Sequence[ObjectCrop]) -> ObjectCrop:
    """Return one object of the parts of it, with the class of the first and the highest score."""
    left, top = (min(each.box[side] for each in crops) for side in (0, 1))
    right, bottom = (max(each.box[side] for each in crops) for side in (2, 3))
    mask = np.zeros((bottom - top, right - left), dtype=np.bool_)
    for each in crops:
        mask[each.top - top :, each.left - left :][: each.mask.shape[0], : each.mask.shape[1]] |= each.mask
    return ObjectCrop(top, left, mask, crops[0].label, max(each.score for each in crops))


def as_objects(crops: Sequence[ObjectCrop], size: tuple[int, int]) -> Objects:
    """Return the objects of an image of a height and width, with masks of that size, in the same order."""
    masks = torch.zeros(len(crops), *size, dtype=torch.bool)
    for mask, crop in zip(masks, crops, strict=True):
        left, top, right, bottom = crop.box
        mask[top:bottom, left:right] = torch.from_numpy(crop.mask)
    labels = torch.tensor([crop.label for crop in crops], dtype=torch.int64)
    return objects_of(masks, labels, torch.tensor([crop.score for crop in crops], dtype=torch.float32))

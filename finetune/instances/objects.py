"""Objects of one image as tensors: masks, classes, boxes and scores."""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Objects:
    """The N objects of one image, true or predicted.

    Attributes:
        masks: bool (N, H, W).
        labels: class of each (N,), int64, from 0; the background is not a class.
        boxes: left, top, right and bottom of each (N, 4), float32, pixels; right and bottom are the first one outside.
        scores: confidence of each (N,), float32, 0 to 1; 1 for true objects.
        ignored: bool (H, W), pixels on which a prediction is neither right nor wrong, such as a crowd; None for none.
    """

    masks: Tensor
    labels: Tensor
    boxes: Tensor
    scores: Tensor
    ignored: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image."""
        return self.masks.shape[-2], self.masks.shape[-1]

    def __getitem__(self, chosen: Tensor) -> Self:
        """Return the objects that an index or a mask (N,) chooses, in its order."""
        return replace(
            self,
            masks=self.masks[chosen],
            labels=self.labels[chosen],
            boxes=self.boxes[chosen],
            scores=self.scores[chosen],
        )

    def to(self, device: torch.device | str) -> Self:
        """Return the objects on a device."""
        moved = {name: value.to(device) for name, value in vars(self).items() if value is not None}
        return replace(self, **moved)


def objects_of(masks: Tensor, labels: Tensor, scores: Tensor | None = None, ignored: Tensor | None = None) -> Objects:
    """Return objects with the boxes around their masks.

    Args:
        masks: bool (N, H, W), none of them empty.
        labels: int64 (N,).
        scores: float32 (N,); None for true objects.
        ignored: bool (H, W), or None.
    """
    scores = torch.ones(len(labels), device=masks.device) if scores is None else scores
    return Objects(masks, labels, boxes_of(masks), scores, ignored)


def boxes_of(masks: Tensor) -> Tensor:
    """Return the boxes (N, 4), float32, around masks (N, H, W), bool; those of empty masks are zeros.

    >>> boxes_of(torch.tensor([[[False, True, True], [False, False, False]]])).tolist()
    [[1.0, 0.0, 3.0, 1.0]]
    """
    sides = []
    for dim in (-2, -1):  # collapsed: columns first, then rows
        marked = masks.any(dim).to(torch.uint8)
        length = marked.shape[-1]
        present = marked.any(-1)
        first = marked.argmax(-1)
        last = length - marked.flip(-1).argmax(-1)
        sides.append((first * present, last * present))
    (left, right), (top, bottom) = sides
    return torch.stack([left, top, right, bottom], dim=-1).float()

"""Anchors of a detector: boxes on the grid of a map, and the objects that they are trained to find."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import box_iou

from finetune.models.instance_heads.ignored_pixels import lie_on

POSITIVE, NEGATIVE = 0.5, 0.4  # IoU: at least, and below
BACKGROUND, NEITHER = -1, -2  # instead of an object
CHUNK = 64  # objects that are compared with all anchors at a time, to bound the memory


def grid_anchors(like: Tensor, stride: int, size: float, ratios: Sequence[float]) -> Tensor:
    """Return the anchors of a map (h * w * R, 4), row by row, around the center of each cell.

    Args:
        like: the map (..., h, w).
        stride: of the map, pixels.
        size: square root of the area of each anchor, pixels.
        ratios: R heights as multiples of the width.
    """
    x, y = ((torch.arange(like.shape[dim], device=like.device) + 0.5) * stride for dim in (-1, -2))
    centers = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[:, :, None]
    ratio = torch.tensor(ratios, device=like.device)
    half = torch.stack([ratio**-0.5, ratio**0.5], dim=-1) * size / 2
    return torch.cat([centers - half, centers + half], dim=-1).flatten(0, 2)


def match_anchors(anchors: Tensor, boxes: Tensor, ignored: Tensor | None = None) -> Tensor:
    """Return the object that each anchor shall find (A,), int64: its index, `BACKGROUND` or `NEITHER`.

    That is the object of the highest IoU if it is high enough. Each object has at least the anchor of the highest IoU,
    so that small ones are found; a box without an area has none.

    Args:
        anchors: (A, 4).
        boxes: of the objects (N, 4).
        ignored: bool (H, W), pixels on which background counts for nothing; None for none.
    """
    highest = anchors.new_zeros(len(anchors))
    found, forced = (torch.full((len(anchors),), BACKGROUND, device=anchors.device) for _ in range(2))
    for start in range(0, len(boxes), CHUNK):
        iou = box_iou(boxes[start : start + CHUNK], anchors)
        value, index = iou.max(dim=0)
        found = torch.where(value > highest, start + index, found)
        highest = torch.maximum(highest, value)
        value, anchor = iou.max(dim=1)
        numbers = torch.arange(start, start + len(iou), device=anchors.device).masked_fill(value == 0, BACKGROUND)
        forced.scatter_reduce_(0, anchor, numbers, "amax")  # the same on every device if objects share an anchor
    found[highest < POSITIVE] = NEITHER
    found[highest < NEGATIVE] = BACKGROUND
    found = torch.where(forced >= 0, forced, found)
    if ignored is not None:
        found[(found == BACKGROUND) & lie_on(anchors, ignored)] = NEITHER
    return found

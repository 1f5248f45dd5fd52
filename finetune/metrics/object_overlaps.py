"""Overlaps of the predicted objects of an image with its true ones and with its ignored pixels."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_area, box_iou

from finetune.instances import Objects

TILE = 64  # pixels a side: bounds the memory, few objects of many are in one, and float32 counts its pixels exactly


def mask_overlaps(predicted: Objects, true: Objects) -> tuple[Tensor, Tensor, Tensor]:
    """Compare masks.

    Returns:
        The IoU of predicted and true objects (D, G + 1), where the last column is the share of a predicted object on
        ignored pixels; and the areas of the predicted (D,) and of the true objects (G,), pixels. On the CPU, float64.
    """
    shared = shared_pixels(predicted.masks, true.masks, _ignored(true)).cpu().double()
    areas, true_areas = shared[:-1, -1:], shared[-1, :-2]
    shared = shared[:-1, :-1]
    union = areas + F.pad(true_areas, (0, 1)) - shared
    union[:, -1:] = areas
    return shared / union.clamp(min=1), areas[:, 0], true_areas


def box_overlaps(predicted: Objects, true: Objects) -> tuple[Tensor, Tensor]:
    """Return the same of boxes, which may begin and end inside of a pixel, but for the areas of true objects."""
    boxes, ignored = predicted.boxes.cpu().double(), _ignored(true).cpu().double()
    columns, rows = (_covered(boxes[:, side::2], length) for side, length in enumerate(reversed(true.size)))
    area = box_area(boxes)
    share = ((rows @ ignored) * columns).sum(1, keepdim=True) / area[:, None]
    iou = torch.cat([box_iou(boxes, true.boxes.cpu().double()), share], dim=1)
    return iou.nan_to_num(0), area  # 0/0 of boxes without area


def shared_pixels(masks: Tensor, others: Tensor, ignored: Tensor) -> Tensor:
    """Return how many pixels masks share with others, with the ignored pixels and with the whole image.

    Args:
        masks: (N, H, W), bool.
        others: (M, H, W), bool.
        ignored: (H, W), bool.

    Returns:
        int64 (N + 1, M + 2); the last row is of the whole image.
    """
    total = torch.zeros(len(masks) + 1, len(others) + 2, dtype=torch.int64, device=masks.device)
    height, width = ignored.shape
    for y, x in ((y, x) for y in range(0, height, TILE) for x in range(0, width, TILE)):
        mine, theirs, dull = (each[..., y : y + TILE, x : x + TILE].flatten(-2) for each in (masks, others, ignored))
        whole = torch.ones_like(dull)[None]
        tiles = torch.cat([mine, whole]), torch.cat([theirs, dull[None], whole])
        here, there = (tile.view(torch.uint8).any(1).nonzero()[:, 0] for tile in tiles)  # as bool, any is slower
        with torch.autocast(masks.device.type, enabled=False):  # bfloat16 counts to 256
            total[here[:, None], there] += (tiles[0][here].float() @ tiles[1][there].float().T).long()
    return total


def _ignored(true: Objects) -> Tensor:
    return true.masks.new_zeros(true.size) if true.ignored is None else true.ignored


def _covered(sides: Tensor, length: int) -> Tensor:
    """Return which part of each pixel of a line (N, length) intervals (N, 2) cover."""
    start = torch.arange(length, dtype=sides.dtype)
    return (sides[:, 1:].minimum(start + 1) - sides[:, :1].maximum(start)).clamp(min=0)

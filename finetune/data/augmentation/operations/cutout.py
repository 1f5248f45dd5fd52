"""Cutout: a rectangle of the image is covered."""

from math import sqrt

import torch
from torch import Tensor

from finetune.data.opencv import channel_means

Box = tuple[int, int, int, int]  # top, bottom, left, right, pixels


def cutout_box(size: tuple[int, int], area: float, ratio: float, position: tuple[float, float]) -> Box:
    """Return a rectangle in an image.

    Args:
        size: height and width of the image, pixels.
        area: fraction of the image's area; less where the rectangle would be longer than the image.
        ratio: height over width, as fractions of the image's; above 0.
        position: by height and width: 0 is the top and the left, 1 the bottom and the right.
    """
    sides = [sqrt(area * ratio), sqrt(area / ratio)]
    lengths = [min(length, max(1, round(length * side))) for length, side in zip(size, sides, strict=True)]
    top, left = (round(where * (length - side)) for where, length, side in zip(position, size, lengths, strict=True))
    return top, top + lengths[0], left, left + lengths[1]


def cutout(image: Tensor, target: Tensor, box: Box, label: int | None = None) -> tuple[Tensor, Tensor]:
    """Cover a rectangle with the mean color of the image.

    Args:
        image: uint8 (C, H, W).
        target: uint8 (H, W) or (K, H, W).
        box: of the rectangle.
        label: of the rectangle in the target; None leaves the target as it is.

    Returns:
        New image and target.
    """
    top, bottom, left, right = box
    covered = image.clone()
    covered[:, top:bottom, left:right] = torch.tensor(channel_means(image)).round().to(torch.uint8)[:, None, None]
    if label is not None:
        target = target.clone()
        target[..., top:bottom, left:right] = label
    return covered, target

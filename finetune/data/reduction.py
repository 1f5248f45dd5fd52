"""Images and targets at 1/2, 1/4 or 1/8 of their size: a pixel for each block of pixels, from the top left corner."""

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

FACTORS = (1, 2, 4, 8)  # those that JPEG files can be decoded at


@runtime_checkable
class Reducible(Protocol):
    """An image that is read faster at a reduced size."""

    def read_reduced(self, factor: int, channels: int = 3) -> Tensor:
        """Return what `reduce_image` makes of the whole image, up to rounding: uint8 (channels, h, w)."""


def reduced_size(size: tuple[int, int], factor: int) -> tuple[int, int]:
    """Return the number of blocks by height and width; those at the end may be smaller.

    >>> reduced_size((9, 16), 8)
    (2, 2)
    """
    return -(-size[0] // factor), -(-size[1] // factor)


def reduce_image(image: Tensor, factor: int) -> Tensor:
    """Return the mean of each block of an image (C, H, W), uint8, as a whole number next to it.

    >>> reduce_image(torch.tensor([[[1, 2, 7], [3, 4, 9]]], dtype=torch.uint8), 2)
    tensor([[[3, 8]]], dtype=torch.uint8)
    """
    if factor == 1:
        return image
    # by Pillow, in bytes: a large image as floats would take four times its memory, and longer
    channels = [np.array(Image.fromarray(channel).reduce(factor)) for channel in image.numpy()]
    return torch.from_numpy(np.stack(channels))


def reduce_target(target: Tensor, factor: int) -> Tensor:
    """Return the label in the middle of each block of a target (..., H, W).

    >>> reduce_target(torch.arange(9).view(3, 3), 2)
    tensor([[4, 5],
            [7, 8]])
    """
    if factor == 1:
        return target
    for dim in (-2, -1):
        length = target.shape[dim]
        middles = torch.arange(factor // 2, factor * -(-length // factor), factor).clamp_(max=length - 1)
        target = target.index_select(dim, middles)
    return target

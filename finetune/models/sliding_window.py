"""Images of any size in overlapping windows of one, for backbones that would resample them to the size of a crop."""

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from finetune.models.input_size import Size, check_size

SMALLEST, LARGEST = 16, 4096  # pixels
STEP = 2 / 3  # of a window, at most, from one to the next: as in SETR, https://arxiv.org/abs/2012.15840


def check_window(window: Any) -> None:
    """Raise unless it is a height and a width that a description of a model may ask memory and time for."""
    check_size(window, "augment.crop")
    if not SMALLEST <= min(window) <= max(window) <= LARGEST:
        raise ValueError(
            f"augment.crop={list(window)}: expected sides of {SMALLEST} to {LARGEST} pixels. Images are looked at in "
            f"windows of that size."
        )


def in_windows(look: Callable[[Tensor], list[Tensor]], images: Tensor, window: Size) -> list[Tensor]:
    """What `look` makes of windows, as of the whole images; where they overlap, its mean.

    Args:
        look: makes maps (B, C, h, w) of images (B, C', h, w).
        images: (B, C', H, W); smaller ones are padded with zeros.
        window: height and width, in pixels.
    """
    height, width = images.shape[-2:]
    down, right = max(window[0] - height, 0), max(window[1] - width, 0)
    if down or right:
        images = F.pad(images, (0, right, 0, down))
    sums: list[Tensor] = []
    counts = images.new_zeros(images.shape[-2:])
    for top in starts(height + down, window[0]):
        for left in starts(width + right, window[1]):
            part = (..., slice(top, top + window[0]), slice(left, left + window[1]))
            found = look(images[part])
            sums = sums or [maps.new_zeros(*maps.shape[:2], *images.shape[-2:]) for maps in found]
            for total, maps in zip(sums, found, strict=True):
                total[part] += maps
            counts[part] += 1
    return [(total / counts)[..., :height, :width] for total in sums]


def starts(length: int, window: int) -> list[int]:
    """Where windows begin that cover a length evenly.

    >>> starts(320, 320), starts(500, 320), starts(1024, 320)
    ([0], [0, 180], [0, 176, 352, 528, 704])
    """
    more = math.ceil((length - window) / (STEP * window))
    return [round(place * (length - window) / more) for place in range(more + 1)] if more else [0]

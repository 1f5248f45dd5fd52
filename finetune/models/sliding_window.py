"""Sliding-window evaluation of large images, for fixed-size backbones that would otherwise resample them."""

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from finetune.models.input_size import Size, check_size

MIN_SIDE, MAX_SIDE = 16, 4096  # pixels of a window; bounds the memory and time that an untrusted config can ask for
MAX_STEP = 2 / 3  # of a window, from one to the next: as in SETR, https://arxiv.org/abs/2012.15840


def check_window(window: Any) -> None:
    """Raise ValueError unless it is a height and a width within the limits."""
    check_size(window, "augment.crop")
    if not MIN_SIDE <= min(window) <= max(window) <= MAX_SIDE:
        raise ValueError(
            f"augment.crop={list(window)}: expected sides of {MIN_SIDE} to {MAX_SIDE} pixels, as this backbone "
            f"evaluates images in windows of that size."
        )


def average_windows(predict: Callable[[Tensor], list[Tensor]], images: Tensor, window: Size) -> list[Tensor]:
    """Return the predictions for whole images, computed in windows; where windows overlap, their mean.

    Args:
        predict: returns maps (B, C, h, w) for images (B, C', h, w).
        images: (B, C', H, W); smaller ones are padded with zeros.
        window: height and width, in pixels.
    """
    height, width = map(int, images.shape[-2:])  # plain numbers, also where a trace has tensors
    down, right = max(window[0] - height, 0), max(window[1] - width, 0)
    if down or right:
        images = F.pad(images, (0, right, 0, down))
    sums: list[Tensor] = []
    counts = images.new_zeros(images.shape[-2:])
    for top in window_starts(height + down, window[0]):
        for left in window_starts(width + right, window[1]):
            region = (..., slice(top, top + window[0]), slice(left, left + window[1]))
            predictions = predict(images[region])
            sums = sums or [maps.new_zeros(*maps.shape[:2], *images.shape[-2:]) for maps in predictions]
            for total, maps in zip(sums, predictions, strict=True):
                total[region] += maps
            counts[region] += 1
    return [(total / counts)[..., :height, :width] for total in sums]


def window_starts(length: int, window: int) -> list[int]:
    """Return the first pixels of windows that cover a length evenly.

    >>> window_starts(320, 320), window_starts(500, 320), window_starts(1024, 320)
    ([0], [0, 180], [0, 176, 352, 528, 704])
    """
    steps = math.ceil((length - window) / (MAX_STEP * window))
    return [round(step * (length - window) / steps) for step in range(steps + 1)] if steps else [0]

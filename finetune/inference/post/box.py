"""Sums over square windows, which are cut off at the border of the image."""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d


def box_sum(values: Tensor, radius: int) -> Tensor:
    """Return the sum over (2 * radius + 1) squared pixels around each pixel of (B, C, H, W), floating point."""
    size = 2 * radius + 1
    rows = avg_pool2d(values, (size, 1), 1, (radius, 0), divisor_override=1)
    return avg_pool2d(rows, (1, size), 1, (0, radius), divisor_override=1)


def box_mean(values: Tensor, radius: int) -> Tensor:
    """Return the mean over the pixels of each window that are in the image; see `box_sum`."""
    return box_sum(values, radius) / box_sum(torch.ones_like(values[:1, :1]), radius)


def check_radius(radius: int) -> None:
    """Raise ValueError unless a radius is 1 pixel or more."""
    if radius < 1:
        raise ValueError(f"radius={radius}: expected 1 pixel or more.")

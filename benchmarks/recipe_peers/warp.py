"""Projective warps of an image with its mask."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from recipe_peers.datasets import VOID, Pair


def rotation(degrees: float, size: tuple[int, int]) -> Tensor:
    """Return the matrix (3, 3) of a rotation in coordinates of -1 to 1 over (height, width); it keeps circles round."""
    cos, sin, ratio = math.cos(math.radians(degrees)), math.sin(math.radians(degrees)), size[0] / size[1]
    return torch.tensor([[cos, -sin * ratio, 0.0], [sin / ratio, cos, 0.0], [0.0, 0.0, 1.0]])


def zoom(factor: float, x: float = 0.0, y: float = 0.0) -> Tensor:
    """Return the matrix that enlarges by a factor, about the point (x, y) in -1 to 1."""
    s = 1 / factor
    return torch.tensor([[s, 0.0, x * (1 - s)], [0.0, s, y * (1 - s)], [0.0, 0.0, 1.0]])


def tilt(x: float, y: float) -> Tensor:
    """Return the matrix of a perspective: the plane is turned, so that the far side is smaller by these fractions."""
    return torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [x, y, 1.0]])


def warp(image: Tensor, mask: Tensor, matrix: Tensor, padding: str = "zeros") -> Pair:
    """Return the image, bilinear, and the mask, nearest, as seen through a matrix.

    Args:
        image: float (3, H, W).
        mask: uint8 (H, W).
        matrix: (3, 3), from output to input, both in -1 to 1.
        padding: `zeros` uncovers black and `VOID`; `reflection` mirrors both.
    """
    height, width = mask.shape
    y, x = ((torch.arange(side) * 2 + 1) / side - 1 for side in (height, width))
    points = torch.stack([*torch.meshgrid(x, y, indexing="xy"), torch.ones(height, width)], dim=-1) @ matrix.T
    grid = (points[..., :2] / points[..., 2:])[None]
    image = F.grid_sample(image[None], grid, mode="bilinear", padding_mode=padding, align_corners=False)[0]
    shifted = mask[None, None].float() - VOID  # zeros that are uncovered become VOID
    labels = F.grid_sample(shifted, grid, mode="nearest", padding_mode=padding, align_corners=False)[0, 0]
    return image, (labels + VOID).round().to(torch.uint8)

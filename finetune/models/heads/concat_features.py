"""Concatenation of maps of several strides at the size of the finest."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from finetune.models.heads.pyramid import PyramidSpec


def select_levels(pyramid: PyramidSpec, strides: Sequence[int]) -> tuple[int, ...]:
    """Return the levels of the deepest maps of these strides, fine to coarse.

    Raises:
        ValueError: if there is no stride, a stride repeats, or the pyramid has no map of a stride.
    """
    if isinstance(strides, str) or not isinstance(strides, Sequence) or not strides or len(set(strides)) < len(strides):
        raise ValueError(f"head.strides={strides}: expected a list of different strides, such as [4, 8, 16, 32].")
    return tuple(sorted(pyramid.deepest_level(stride, "strides") for stride in strides))


def concat_features(maps: list[Tensor]) -> Tensor:
    """Return maps (B, C, h, w), fine to coarse, as one map of all channels at the size of the first."""
    size = maps[0].shape[-2:]
    return torch.cat([maps[0], *(F.interpolate(m, size, mode="bilinear", align_corners=False) for m in maps[1:])], 1)

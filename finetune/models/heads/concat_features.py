"""Maps of several strides as one map of the finest."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from finetune.models.heads.pyramid import PyramidSpec


def chosen_levels(pyramid: PyramidSpec, strides: Sequence[int]) -> tuple[int, ...]:
    """Levels of the maps of these strides, fine to coarse.

    Raises:
        ValueError: no stride at all, one twice, or one that there is no map of.
    """
    if isinstance(strides, str) or not isinstance(strides, Sequence) or not strides or len(set(strides)) < len(strides):
        raise ValueError(f"head.strides={strides}: expected a list of different strides, such as [4, 8, 16, 32].")
    return tuple(sorted(pyramid.deepest(stride, "strides") for stride in strides))


def concatenate(maps: list[Tensor]) -> Tensor:
    """Maps (B, C, h, w), fine to coarse, as one: all channels at the size of the first."""
    size = maps[0].shape[-2:]
    return torch.cat([maps[0], *(F.interpolate(m, size, mode="bilinear", align_corners=False) for m in maps[1:])], 1)

"""Neck between backbone and head: builds the pyramid that decoders expect from the backbone's feature maps."""

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from finetune.models.feature_levels import COARSEST, STRIDES, Level, fill_missing_levels

RESAMPLINGS = ("interpolate", "learned")


class PyramidNeck(nn.Module):
    """Images and feature maps as one dense pyramid of strides 1, 2, 4, 8, 16, 32.

    A map whose stride is not the level's is resampled, such as the maps of plain ViTs and those of irregular strides.
    If there is no map of stride 2 (ConvNeXt begins at 4), a map with zero channels takes its place, which decoders
    concatenate at no cost; segmentation_models_pytorch has the same layout.

    Args:
        in_channels: number of image channels.
        levels: levels of the backbone, in its order; the nearest map also fills a missing level.
        output_stride: output stride that the head is made for.
        keep_strides: leave maps at their native stride, for a decoder that scales them itself.
        resampling: `interpolate` for bilinear interpolation; `learned` for transposed and strided convolutions by
            factors of two (Li et al. 2022, https://arxiv.org/abs/2203.16527), then interpolation for the remainder.

    Attributes:
        channels: channels of the pyramid.
        strides: strides of the pyramid; strides of dilated maps repeat.

    Raises:
        ValueError: if the resampling is unknown.
    """

    def __init__(
        self,
        in_channels: int,
        levels: Sequence[Level],
        resampling: str = "interpolate",
        keep_strides: bool = False,
        output_stride: int = COARSEST,
    ) -> None:
        super().__init__()
        if resampling not in RESAMPLINGS:
            raise ValueError(f"backbone.neck={resampling}: expected one of {', '.join(RESAMPLINGS)}.")
        if keep_strides:
            levels = [replace(level, target_stride=level.native_stride) for level in levels]
        self.levels = {level.stride: level for level in fill_missing_levels(levels, output_stride)}
        self.channels = (in_channels, *(self.levels[s].channels if s in self.levels else 0 for s in STRIDES))
        self.strides = (1, *(self.levels[s].target_stride if s in self.levels else s for s in STRIDES))
        learned = {str(s): scaling_layers(level) for s, level in self.levels.items()} if resampling == "learned" else {}
        self.scalings = nn.ModuleDict({stride: layers for stride, layers in learned.items() if len(layers)})
        self.indices = tuple(level.index for level in levels)

    def select_levels(self, positions: Collection[int]) -> tuple[int, ...]:
        """Build only these levels from now on; the others become maps with zero channels.

        Args:
            positions: positions of the levels in the pyramid's list.

        Returns:
            Indices of the backbone's maps that these levels need.
        """
        selected = {STRIDES[position - 1] for position in positions if position > 0}
        self.levels = {stride: level for stride, level in self.levels.items() if stride in selected}
        for stride in set(self.scalings) - {str(stride) for stride in self.levels}:
            del self.scalings[stride]
        needed = {level.index for level in self.levels.values()}
        self.indices = tuple(index for index in self.indices if index in needed)
        return self.indices

    def forward(self, images: Tensor, features: Sequence[Any]) -> list[Any]:
        """Return the pyramid as a list [stride 1, stride 2, stride 4, ...].

        Args:
            images: (B, C, H, W), H and W multiples of 32.
            features: maps of the backbone; anything after them is appended to the pyramid unchanged.
        """
        maps = dict(zip(self.indices, features, strict=False))
        height, width = images.shape[-2:]
        pyramid = [images]
        for stride, target_stride in zip(STRIDES, self.strides[1:], strict=True):
            size = (height // target_stride, width // target_stride)
            if stride not in self.levels:
                pyramid.append(images.new_empty(images.shape[0], 0, *size))
                continue
            feature = maps[self.levels[stride].index]
            if str(stride) in self.scalings:
                feature = self.scalings[str(stride)](feature)
            if feature.shape[-2:] != size:
                feature = F.interpolate(feature, size, mode="bilinear", align_corners=False)
            pyramid.append(feature)
        return [*pyramid, *features[len(self.indices) :]]


def scaling_layers(level: Level) -> nn.Sequential:
    """Return convolutions that scale a map to its level by factors of two; none if its stride is right already.

    >>> [type(layer).__name__ for layer in scaling_layers(Level(4, 2, 8, 14, 4))]
    ['ConvTranspose2d', 'GroupNorm', 'GELU', 'ConvTranspose2d']
    """
    layers: list[nn.Module] = []
    doublings = round(math.log2(level.native_stride / level.target_stride))
    for _ in range(abs(doublings)):
        if layers:
            layers += [nn.GroupNorm(1, level.channels), nn.GELU()]
        if doublings > 0:
            layers.append(nn.ConvTranspose2d(level.channels, level.channels, 2, stride=2))
        else:
            layers.append(nn.Conv2d(level.channels, level.channels, 3, stride=2, padding=1))
    return nn.Sequential(*layers)

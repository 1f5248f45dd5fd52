"""Between backbone and head: makes the pyramid that decoders expect out of the maps that a backbone has."""

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from finetune.models.feature_levels import COARSEST, STRIDES, Level, complete

RESAMPLINGS = ("interpolate", "learned")


class PyramidNeck(nn.Module):
    """Images and feature maps as one dense pyramid of strides 1, 2, 4, 8, 16, 32.

    A map whose stride is not its level's is resampled: those of plain ViTs, and those of irregular strides. Where there
    is no map of stride 2 (ConvNeXt begins at 4), one with zero channels stands for it, which decoders concatenate for
    free; it is the layout of segmentation_models_pytorch.

    Args:
        in_channels: channels of the images.
        levels: of the backbone's maps, in their order; the nearest map stands for a level that is missing, too.
        output_stride: that the head is made for.
        as_they_are: maps of one stride keep it, for a decoder that brings them to their levels itself.
        resampling: `interpolate`, bilinear; or `learned`, transposed and strided convolutions by factors of two (Li et
            al. 2022, https://arxiv.org/abs/2203.16527), and interpolation for what is left.

    Attributes:
        channels: of the pyramid.
        strides: of the pyramid; those of dilated maps repeat.

    Raises:
        ValueError: another resampling.
    """

    def __init__(
        self,
        in_channels: int,
        levels: Sequence[Level],
        resampling: str = "interpolate",
        as_they_are: bool = False,
        output_stride: int = COARSEST,
    ) -> None:
        super().__init__()
        if resampling not in RESAMPLINGS:
            raise ValueError(f"backbone.neck={resampling}: expected one of {', '.join(RESAMPLINGS)}.")
        if as_they_are:
            levels = [replace(level, grid=level.given) for level in levels]
        self.levels = {level.stride: level for level in complete(levels, output_stride)}
        self.channels = (in_channels, *(self.levels[s].channels if s in self.levels else 0 for s in STRIDES))
        self.strides = (1, *(self.levels[s].grid if s in self.levels else s for s in STRIDES))
        learned = {str(s): scaling(level) for s, level in self.levels.items()} if resampling == "learned" else {}
        self.scalings = nn.ModuleDict({stride: layers for stride, layers in learned.items() if len(layers)})
        self.indices = tuple(level.index for level in levels)

    def keep(self, places: Collection[int]) -> tuple[int, ...]:
        """Make no more levels than these from now on; the indices of the maps that they need.

        Args:
            places: in the pyramid's list; the others become maps with zero channels.
        """
        kept = {STRIDES[place - 1] for place in places if place > 0}
        self.levels = {stride: level for stride, level in self.levels.items() if stride in kept}
        for stride in set(self.scalings) - {str(stride) for stride in self.levels}:
            del self.scalings[stride]
        needed = {level.index for level in self.levels.values()}
        self.indices = tuple(index for index in self.indices if index in needed)
        return self.indices

    def forward(self, images: Tensor, features: Sequence[Any]) -> list[Any]:
        """The pyramid as a list [stride 1, stride 2, stride 4, ...].

        Args:
            images: (B, C, H, W), H and W multiples of 32.
            features: maps of the backbone; what comes behind them is handed on.
        """
        maps = dict(zip(self.indices, features, strict=False))
        height, width = images.shape[-2:]
        pyramid = [images]
        for stride, grid in zip(STRIDES, self.strides[1:], strict=True):
            size = (height // grid, width // grid)
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


def scaling(level: Level) -> nn.Sequential:
    """Convolutions that bring a map to its level, by factors of two; none for a map that is there.

    >>> [type(layer).__name__ for layer in scaling(Level(4, 2, 8, 14, 4))]
    ['ConvTranspose2d', 'GroupNorm', 'GELU', 'ConvTranspose2d']
    """
    layers: list[nn.Module] = []
    doublings = round(math.log2(level.given / level.grid))
    for _ in range(abs(doublings)):
        if layers:
            layers += [nn.GroupNorm(1, level.channels), nn.GELU()]
        if doublings > 0:
            layers.append(nn.ConvTranspose2d(level.channels, level.channels, 2, stride=2))
        else:
            layers.append(nn.Conv2d(level.channels, level.channels, 3, stride=2, padding=1))
    return nn.Sequential(*layers)

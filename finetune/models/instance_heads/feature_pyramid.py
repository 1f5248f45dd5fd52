"""A feature pyramid network of four levels with one number of channels."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from finetune.models.heads.pyramid import REQUIRED_LEVELS, PyramidSpec

GROUPS = 16  # of its norms, which need no statistics of a batch


class FeaturePyramid(nn.Module):
    """Adds each coarser map to the next finer one, top down.

    Args:
        pyramid: what the neck gives.
        channels: of each map that it returns, a multiple of 16.

    Attributes:
        levels: positions of the maps in the neck's list that it reads.
        strides: of the maps that it returns, fine to coarse.

    Source: Lin et al. 2017, https://arxiv.org/abs/1612.03144; group norm instead of none: He et al. 2018,
        https://arxiv.org/abs/1811.08883
    """

    def __init__(self, pyramid: PyramidSpec, channels: int = 128) -> None:
        super().__init__()
        if channels < GROUPS or channels % GROUPS:
            raise ValueError(f"head.channels={channels}: expected a multiple of {GROUPS}, for its group norms.")
        self.levels = REQUIRED_LEVELS
        self.strides = tuple(pyramid.strides[level] for level in self.levels)
        self.lateral = nn.ModuleList(_block(pyramid.channels[level], channels, 1) for level in self.levels)
        self.output = nn.ModuleList(_block(channels, channels, 3) for _ in self.levels)

    def forward(self, pyramid: Sequence[Tensor]) -> list[Tensor]:
        """Return the maps (B, channels, h, w) of strides 4 to 32, fine to coarse."""
        maps = [layer(pyramid[level]) for layer, level in zip(self.lateral, self.levels, strict=True)]
        for index in range(len(maps) - 2, -1, -1):
            maps[index] = maps[index] + F.interpolate(maps[index + 1], maps[index].shape[-2:], mode="nearest")
        return [layer(feature) for layer, feature in zip(self.output, maps, strict=True)]


def _block(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    """Return a convolution that keeps the size, with a group norm."""
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_uniform_(convolution.weight, a=1)
    return nn.Sequential(convolution, nn.GroupNorm(GROUPS, outputs))

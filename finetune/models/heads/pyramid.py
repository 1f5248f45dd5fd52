"""What stands between neck and head: the maps that there are, and those that a decoder reads."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor, nn
from torch.nn import functional as F

ALL = (1, 2, 3, 4, 5)
COARSE = (2, 3, 4, 5)  # the levels that every pyramid has a map of


@dataclass(frozen=True)
class PyramidSpec:
    """What a decoder is built on: the images and five levels of maps, as a list, each half as large as the one before.

    The list is [images, stride 2, stride 4, stride 8, stride 16, stride 32]. What the pyramid promises besides comes as
    a seventh element, a list: the pooling indices of `pools`, or the prefix tokens of `tokens`.

    Attributes:
        channels: of the images and of each map; 0 at stride 2 where the backbone has no such map.
        strides: 1, 2, 4, 8, 16, 32; the last ones are smaller where the backbone is dilated.
        pools: channels of the maps that the backbone halves by max-pooling of 2x2, fine to coarse, where it hands out
            the indices of the maxima, int64 as of torch's `max_pool2d`; empty where it does not.
        tokens: number of prefix tokens (B, tokens, C) that come with each map of stride 4 to 32 and are as wide as it.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    pools: tuple[int, ...] = ()
    tokens: int = 0

    def deepest(self, stride: int, option: str = "stride") -> int:
        """Level of the deepest map of a stride.

        Args:
            stride: of the map in this pyramid.
            option: of the head, that asks for it.

        Raises:
            ValueError: no map of that stride.

        >>> PyramidSpec((3, 0, 8, 8, 8, 8), (1, 2, 4, 8, 16, 16)).deepest(16)
        5
        """
        found = {s: level for level, s in enumerate(self.strides) if level > 0 and self.channels[level] > 0}
        if stride not in found:
            raise ValueError(
                f"head.{option}={stride}: there is no map of that stride. With this head and output stride, the "
                f"backbone's have strides {', '.join(map(str, found))}. Set head.{option} to one of them."
            )
        return found[stride]


DecoderAndHead = tuple[nn.Module, nn.Module]


@runtime_checkable
class HasAuxiliaryOutputs(Protocol):
    """A decoder with further logits to learn from, which are of no use afterwards."""

    def forward_with_auxiliary(self, features: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """What `forward` returns, and logits (B, classes, H, W) at the size of the images; none if they are off."""


def levels_read(decoder: nn.Module) -> tuple[int, ...]:
    """Indices of the maps, in the pyramid's list, that a decoder reads.

    Layers of backbone and neck that only other maps depend on get no gradient.
    """
    levels: Sequence[int] = decoder.levels  # type: ignore[assignment]  # a plain tuple, which torch has no type for
    return tuple(levels)


def like_images(logits: Tensor, images: Tensor) -> Tensor:
    """Logits (B, classes, h, w) at the size of the images (B, C, H, W)."""
    return F.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=False)

"""The interface between neck and head: the maps that a pyramid has, and the levels that a decoder reads."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor, nn
from torch.nn import functional as F

ALL_LEVELS = (1, 2, 3, 4, 5)
REQUIRED_LEVELS = (2, 3, 4, 5)  # every pyramid has these


@dataclass(frozen=True)
class PyramidSpec:
    """The input of a decoder: the images and five levels of maps, as a list.

    The list is [images, stride 2, stride 4, stride 8, stride 16, stride 32]. If `pools` or `tokens` is set, a seventh
    element is the list of the pooling indices, or of the prefix tokens.

    Attributes:
        channels: channels of the images and of each map; 0 at stride 2 if the backbone has no such map.
        strides: 1, 2, 4, 8, 16, 32; the last ones are smaller if the backbone is dilated.
        pools: channels of the maps that the backbone halves by max-pooling of 2x2, fine to coarse, if it returns the
            indices of the maxima (int64, as torch's `max_pool2d`); else empty.
        tokens: number of prefix tokens (B, tokens, C) that come with each map of stride 4 to 32; C is the map's.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    pools: tuple[int, ...] = ()
    tokens: int = 0

    def deepest_level(self, stride: int, option: str = "stride") -> int:
        """Return the level of the deepest map of a stride.

        Args:
            stride: stride of the map in this pyramid.
            option: name of the head option that asks for it, for messages.

        Raises:
            ValueError: if there is no map of that stride.

        >>> PyramidSpec((3, 0, 8, 8, 8, 8), (1, 2, 4, 8, 16, 16)).deepest_level(16)
        5
        """
        levels = {s: level for level, s in enumerate(self.strides) if level > 0 and self.channels[level] > 0}
        if stride not in levels:
            raise ValueError(
                f"head.{option}={stride}: there is no map of that stride. With this head and output stride, the "
                f"backbone's maps have strides {', '.join(map(str, levels))}. Set head.{option} to one of them."
            )
        return levels[stride]


DecoderAndHead = tuple[nn.Module, nn.Module]


@runtime_checkable
class HasAuxiliaryOutputs(Protocol):
    """A decoder with further logits, for auxiliary training losses only."""

    def forward_with_auxiliary(self, features: list[Tensor]) -> tuple[Tensor | list[Tensor], list[Tensor]]:
        """Return what `forward` does, and auxiliary logits (B, classes, H, W), none if they are off."""


def levels_read(decoder: nn.Module) -> tuple[int, ...]:
    """Return the indices in the pyramid's list of the maps that a decoder reads.

    Layers of backbone and neck that only other maps depend on get no gradient.
    """
    levels: Sequence[int] = decoder.levels  # type: ignore[assignment]  # torch types attributes as Tensor | Module
    return tuple(levels)


def resize_to_images(logits: Tensor, images: Tensor) -> Tensor:
    """Resize logits (B, classes, h, w) to the size of the images (B, C, H, W)."""
    return F.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=False)

"""The interface of a head that predicts objects."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from finetune.instances import Objects

MOST_DETECTIONS = 100_000  # limit for untrusted configs, as memory grows with it


class InstanceHead(nn.Module, ABC):
    """Turns the maps of a `FeaturePyramid` into objects.

    The constructor takes `strides` (of the maps, fine to coarse), `channels` (of each) and `classes` (without the
    background); then the options in `conf/head/<name>.yaml`.

    Attributes:
        terms: names of the losses.
        max_detections: most objects of an image.
        min_score: least score of an object.
    """

    terms: ClassVar[tuple[str, ...]]
    max_detections: int = 100
    min_score: float = 0.0

    @abstractmethod
    def losses(self, maps: Sequence[Tensor], targets: Sequence[Objects]) -> dict[str, Tensor]:
        """Return the weighted training losses by name, scalar, finite even if no image has an object.

        Args:
            maps: (B, channels, h, w), fine to coarse, of images that were padded on the right and at the bottom.
            targets: the objects of each image, on the device of the maps; an image may have none.
        """

    @abstractmethod
    def detect(self, maps: Sequence[Tensor], size: tuple[int, int]) -> list[Objects]:
        """Return the objects of each image, by falling score, with masks of a size.

        Args:
            maps: (B, channels, h, w), fine to coarse, of images that were padded on the right and at the bottom.
            size: height and width of the images without padding.
        """

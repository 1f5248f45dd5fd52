"""The interface of a measurement: what an evaluation outside of a training finds out in addition to its scores."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

Sums = Mapping[str, Tensor]


@dataclass(frozen=True)
class ImageBatch:
    """Images of one size that have been predicted.

    Attributes:
        index: of each image in the data set (B,).
        image: (B, C, H, W), uint8.
        probabilities: of each class (B, K, H, W), floating point.
        prediction: class indices (B, H, W), or masks (B, K, H, W) of 0 and 1.
        target: of the prediction's shape, with the label to ignore where a pixel does not count.
    """

    index: Tensor
    image: Tensor
    probabilities: Tensor
    prediction: Tensor
    target: Tensor


class Measurement(Protocol):
    """Looks at each image of an evaluation once.

    The task adds up the tensors of all ranks. Integer counts add up exactly; so do rows of single images, because each
    image is on one rank, and its row is zero on the others.
    """

    def update(self, batch: ImageBatch) -> None:
        """Measure a batch."""

    def sums(self) -> dict[str, Tensor]:
        """Return tensors of fixed names, shapes and types."""

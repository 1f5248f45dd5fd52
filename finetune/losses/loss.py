"""The interface of a loss."""

from typing import ClassVar, Literal, Protocol

from torch import Tensor

from finetune.losses.functional import Reduce, no_reduction

TargetFormat = Literal["indices", "masks"]


class Loss(Protocol):
    """A loss of a pixelwise task.

    The constructor takes flat keyword arguments, `ignore_index` among them: the label of pixels that add nothing.
    `class_weights`, a tensor (K,) or None, is passed only to a loss whose YAML file has that option.

    Attributes:
        target_formats: the targets that it accepts. `indices` are class indices (B, H, W). `masks` are (B, K, H, W) of
            0 and 1. Both are of an integer type and may hold `ignore_index`.
        auxiliary_weight: weight of the loss of each auxiliary output, next to a weight of 1 for the logits.
    """

    target_formats: ClassVar[tuple[TargetFormat, ...]]
    auxiliary_weight: float

    def __call__(self, logits: Tensor, target: Tensor, reduce: Reduce = no_reduction) -> Tensor:
        """Return the scalar loss of logits (B, K, H, W).

        Args:
            logits: of this device's part of the batch.
            target: of the same part, in one of `target_formats`.
            reduce: adds up the sums of all devices, so that the loss is that of the global batch.
        """

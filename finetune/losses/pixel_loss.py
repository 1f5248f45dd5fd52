"""The base of the package's own losses: class weights, precision, checks of shapes."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from finetune.losses.functional import Reduce, no_reduction
from finetune.losses.loss import TargetFormat


class PixelLoss(nn.Module, ABC):
    """A loss in float32 or wider, whatever autocast does. Subclasses implement `compute`.

    Args:
        ignore_index: label of the pixels to leave out.
        class_weights: weights (K,); not saved in checkpoints, because they belong to the data.
        auxiliary_weight: weight of the loss of each auxiliary output, next to a weight of 1 for the logits.

    Raises:
        ValueError: a negative weight.
    """

    target_formats: ClassVar[tuple[TargetFormat, ...]]
    class_weights: Tensor | None

    def __init__(
        self,
        ignore_index: int = 255,
        class_weights: Tensor | Sequence[float] | None = None,
        auxiliary_weight: float = 0.4,
    ) -> None:
        super().__init__()
        check_at_least_zero(auxiliary_weight=auxiliary_weight)
        self.ignore_index = ignore_index
        self.auxiliary_weight = auxiliary_weight
        weights = None if class_weights is None else torch.as_tensor(class_weights, dtype=torch.float32)
        if weights is not None and not bool((weights >= 0).all()):
            raise ValueError(f"class_weights={weights.tolist()}: expected numbers of 0 or more.")
        self.register_buffer("class_weights", None if weights is None else weights.detach().clone(), persistent=False)

    @abstractmethod
    def compute(self, logits: Tensor, target: Tensor, weight: Tensor | None, reduce: Reduce) -> Tensor:
        """Return the scalar loss.

        Args:
            logits: (B, K, H, W), float32 or float64.
            target: of the shape that the class's target format has.
            weight: class weights (K,) in the logits' type.
            reduce: adds up the sums of all devices.
        """

    def forward(self, logits: Tensor, target: Tensor, reduce: Reduce = no_reduction) -> Tensor:
        """Return the scalar loss; see `Loss`. It is float32, or float64 for logits of that type."""
        self._check_shapes(logits, target)
        # half precision overflows in Dice: its sums run over every pixel of the batch
        with torch.autocast(device_type=logits.device.type, enabled=False):
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            weight = None if self.class_weights is None else self.class_weights.to(logits.dtype)
            return self.compute(logits, target, weight, reduce)

    def _check_shapes(self, logits: Tensor, target: Tensor) -> None:
        batch, classes, *size = logits.shape
        masks = self.target_formats == ("masks",)
        shape = tuple(logits.shape) if masks else (batch, *size)
        if tuple(target.shape) != shape:
            expected = "one mask per class" if masks else "one class index per pixel, no channel axis"
            raise ValueError(
                f"the target has shape {tuple(target.shape)}, but {type(self).__name__} with logits of shape "
                f"{tuple(logits.shape)} needs {shape}: {expected}."
            )
        if self.class_weights is not None and len(self.class_weights) != classes:
            raise ValueError(
                f"there are {len(self.class_weights)} class weights, but the logits have {classes} classes. "
                f"Give one weight per class."
            )

    def extra_repr(self) -> str:
        """Return the options, for `print(model)`."""
        options = {key: value for key, value in vars(self).items() if isinstance(value, int | float)}
        return ", ".join(f"{key}={value}" for key, value in options.items() if key != "training" and key[0] != "_")


def check_at_least_zero(**options: float) -> None:
    """Raise ValueError if an option is negative or NaN."""
    for name, value in options.items():
        if not value >= 0:
            raise ValueError(f"{name}={value}: expected 0 or more.")


def check_fraction(**options: float) -> None:
    """Raise ValueError if an option is not in 0 to below 1."""
    for name, value in options.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name}={value}: expected a number from 0 to below 1.")

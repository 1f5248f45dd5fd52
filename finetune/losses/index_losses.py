"""Losses of class indices (B, H, W): every pixel has exactly one class."""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from finetune.losses.functional import Reduce, ce_dice, cross_entropy, dice, focal, sigmoid_focal_dice
from finetune.losses.loss import TargetFormat
from finetune.losses.pixel_loss import PixelLoss, check_at_least_zero, check_fraction


class CrossEntropy(PixelLoss):
    """Mean cross-entropy over the pixels that count.

    Args:
        label_smoothing: fraction of the target spread evenly over all classes, 0 to below 1.
        ignore_index: label of the pixels to leave out.
        class_weights: weights (K,).
        auxiliary_weight: weight of the loss of each auxiliary output.
    """

    target_formats: ClassVar[tuple[TargetFormat, ...]] = ("indices",)

    def __init__(
        self,
        label_smoothing: float = 0.0,
        *,
        ignore_index: int = 255,
        class_weights: Tensor | Sequence[float] | None = None,
        auxiliary_weight: float = 0.4,
    ) -> None:
        super().__init__(ignore_index, class_weights, auxiliary_weight)
        check_fraction(label_smoothing=label_smoothing)
        self.label_smoothing = label_smoothing

    def compute(self, logits: Tensor, target: Tensor, weight: Tensor | None, reduce: Reduce) -> Tensor:
        """Return the scalar loss."""
        return cross_entropy(logits, target, self.ignore_index, weight, self.label_smoothing, reduce)


class Dice(PixelLoss):
    """One minus soft Dice, averaged over the classes in the target."""

    target_formats: ClassVar[tuple[TargetFormat, ...]] = ("indices",)

    def compute(self, logits: Tensor, target: Tensor, weight: Tensor | None, reduce: Reduce) -> Tensor:
        """Return the scalar loss."""
        return dice(logits, target, self.ignore_index, weight, reduce=reduce)


class CEDice(PixelLoss):
    """Cross-entropy plus Dice.

    Args:
        label_smoothing: for the cross-entropy, 0 to below 1.
        dice_weight: weight of Dice, next to a cross-entropy of weight 1.
        ignore_index: label of the pixels to leave out.
        class_weights: weights (K,).
        auxiliary_weight: weight of the loss of each auxiliary output.
    """

    target_formats: ClassVar[tuple[TargetFormat, ...]] = ("indices",)

    def __init__(
        self,
        label_smoothing: float = 0.0,
        dice_weight: float = 1.0,
        *,
        ignore_index: int = 255,
        class_weights: Tensor | Sequence[float] | None = None,
        auxiliary_weight: float = 0.4,
    ) -> None:
        super().__init__(ignore_index, class_weights, auxiliary_weight)
        check_fraction(label_smoothing=label_smoothing)
        check_at_least_zero(dice_weight=dice_weight)
        self.label_smoothing = label_smoothing
        self.dice_weight = dice_weight

    def compute(self, logits: Tensor, target: Tensor, weight: Tensor | None, reduce: Reduce) -> Tensor:
        """Return the scalar loss."""
        return ce_dice(logits, target, self.ignore_index, weight, self.label_smoothing, self.dice_weight, reduce)


class Focal(PixelLoss):
    """Cross-entropy that down-weights pixels that are already right.

    Args:
        gamma: how strongly easy pixels are down-weighted.
        ignore_index: label of the pixels to leave out.
        class_weights: weights (K,).
        auxiliary_weight: weight of the loss of each auxiliary output.
    """

    target_formats: ClassVar[tuple[TargetFormat, ...]] = ("indices",)

    def __init__(
        self,
        gamma: float = 2.0,
        *,
        ignore_index: int = 255,
        class_weights: Tensor | Sequence[float] | None = None,
        auxiliary_weight: float = 0.4,
    ) -> None:
        super().__init__(ignore_index, class_weights, auxiliary_weight)
        check_at_least_zero(gamma=gamma)
        self.gamma = gamma

    def compute(self, logits: Tensor, target: Tensor, weight: Tensor | None, reduce: Reduce) -> Tensor:
        """Return the scalar loss."""
        return focal(logits, target, self.ignore_index, self.gamma, weight, reduce)


class SigmoidFocalDice(PixelLoss):
    """Sigmoid focal loss plus Dice of sigmoids, the mask of each class made from class indices.

    Args:
        focal_weight: weight of the focal loss.
        dice_weight: weight of Dice.
        gamma: how strongly easy pixels are down-weighted.
        ignore_index: label of the pixels to leave out.
        class_weights: weights (K,).
        auxiliary_weight: weight of the loss of each auxiliary output.
    """

    target_formats: ClassVar[tuple[TargetFormat, ...]] = ("indices",)

    def __init__(
        self,
        focal_weight: float = 20.0,
        dice_weight: float = 1.0,
        gamma: float = 2.0,
        *,
        ignore_index: int = 255,
        class_weights: Tensor | Sequence[float] | None = None,
        auxiliary_weight: float = 0.4,
    ) -> None:
        super().__init__(ignore_index, class_weights, auxiliary_weight)
        check_at_least_zero(focal_weight=focal_weight, dice_weight=dice_weight, gamma=gamma)
        self.focal_weight = focal_weight
        self.dice_weight = dice_weight
        self.gamma = gamma

    def compute(self, logits: Tensor, target: Tensor, weight: Tensor | None, reduce: Reduce) -> Tensor:
        """Return the scalar loss."""
        return sigmoid_focal_dice(
            logits, target, self.ignore_index, weight, self.focal_weight, self.dice_weight, self.gamma, reduce
        )

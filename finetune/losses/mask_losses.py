"""Losses of masks (B, K, H, W): every pixel may have any number of classes."""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from finetune.losses.functional import Reduce
from finetune.losses.loss import TargetFormat
from finetune.losses.mask_functional import bce, bce_dice, sigmoid_focal
from finetune.losses.pixel_loss import PixelLoss, check_at_least_zero, check_fraction


class BCE(PixelLoss):
    """Mean binary cross-entropy over all pixels and classes that count."""

    target_formats: ClassVar[tuple[TargetFormat, ...]] = ("masks",)

    def compute(self, logits: Tensor, target: Tensor, weight: Tensor | None, reduce: Reduce) -> Tensor:
        """Return the scalar loss."""
        return bce(logits, target, self.ignore_index, weight, reduce)


class BCEDice(PixelLoss):
    """Binary cross-entropy plus Dice of sigmoids.

    Args:
        dice_weight: weight of Dice, next to a cross-entropy of weight 1.
        ignore_index: label of the pixels to leave out.
        class_weights: weights (K,).
        auxiliary_weight: weight of the loss of each auxiliary output.
    """

    target_formats: ClassVar[tuple[TargetFormat, ...]] = ("masks",)

    def __init__(
        self,
        dice_weight: float = 1.0,
        *,
        ignore_index: int = 255,
        class_weights: Tensor | Sequence[float] | None = None,
        auxiliary_weight: float = 0.4,
    ) -> None:
        super().__init__(ignore_index, class_weights, auxiliary_weight)
        check_at_least_zero(dice_weight=dice_weight)
        self.dice_weight = dice_weight

    def compute(self, logits: Tensor, target: Tensor, weight: Tensor | None, reduce: Reduce) -> Tensor:
        """Return the scalar loss."""
        return bce_dice(logits, target, self.ignore_index, weight, self.dice_weight, reduce)


class SigmoidFocal(PixelLoss):
    """Binary cross-entropy that down-weights pixels that are already right.

    Args:
        gamma: how strongly easy pixels are down-weighted.
        alpha: weight of the pixels of a class, 0 to below 1; all others have 1 - alpha.
        ignore_index: label of the pixels to leave out.
        class_weights: weights (K,).
        auxiliary_weight: weight of the loss of each auxiliary output.
    """

    target_formats: ClassVar[tuple[TargetFormat, ...]] = ("masks",)

    def __init__(
        self,
        gamma: float = 2.0,
        alpha: float = 0.25,
        *,
        ignore_index: int = 255,
        class_weights: Tensor | Sequence[float] | None = None,
        auxiliary_weight: float = 0.4,
    ) -> None:
        super().__init__(ignore_index, class_weights, auxiliary_weight)
        check_at_least_zero(gamma=gamma)
        check_fraction(alpha=alpha)
        self.gamma = gamma
        self.alpha = alpha

    def compute(self, logits: Tensor, target: Tensor, weight: Tensor | None, reduce: Reduce) -> Tensor:
        """Return the scalar loss."""
        return sigmoid_focal(logits, target, self.ignore_index, weight, self.gamma, self.alpha, reduce)

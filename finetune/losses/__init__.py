"""Losses of pixelwise tasks: pure functions, modules with their options, and the table of their names."""

from finetune.losses.adapter import ForeignLoss
from finetune.losses.functional import Reduce, ce_dice, cross_entropy, dice, focal, no_reduction, sigmoid_focal_dice
from finetune.losses.head_loss import HeadLoss
from finetune.losses.index_losses import CEDice, CrossEntropy, Dice, Focal, SigmoidFocalDice
from finetune.losses.loss import Loss, TargetFormat
from finetune.losses.mask_functional import bce, bce_dice, mask_dice, sigmoid_focal
from finetune.losses.mask_losses import BCE, BCEDice, SigmoidFocal
from finetune.losses.pixel_loss import PixelLoss

LOSSES: dict[str, type[Loss]] = {
    "cross_entropy": CrossEntropy,
    "dice": Dice,
    "ce_dice": CEDice,
    "focal": Focal,
    "sigmoid_focal_dice": SigmoidFocalDice,
    "bce": BCE,
    "bce_dice": BCEDice,
    "sigmoid_focal": SigmoidFocal,
    "foreign": ForeignLoss,
    "of_head": HeadLoss,  # type: ignore[dict-item]  # takes the terms of a head instead of logits
}

__all__ = [
    "BCE",
    "LOSSES",
    "BCEDice",
    "CEDice",
    "CrossEntropy",
    "Dice",
    "Focal",
    "ForeignLoss",
    "HeadLoss",
    "Loss",
    "PixelLoss",
    "Reduce",
    "SigmoidFocal",
    "SigmoidFocalDice",
    "TargetFormat",
    "bce",
    "bce_dice",
    "ce_dice",
    "cross_entropy",
    "dice",
    "focal",
    "mask_dice",
    "no_reduction",
    "sigmoid_focal",
    "sigmoid_focal_dice",
]

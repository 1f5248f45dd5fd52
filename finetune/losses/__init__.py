"""Losses for semantic segmentation."""

from finetune.losses.functional import Reduce, ce_dice, cross_entropy, dice, focal, no_reduction, sigmoid_focal_dice
from finetune.losses.module import LOSSES, SegmentationLoss

__all__ = [
    "LOSSES",
    "Reduce",
    "SegmentationLoss",
    "ce_dice",
    "cross_entropy",
    "dice",
    "focal",
    "no_reduction",
    "sigmoid_focal_dice",
]

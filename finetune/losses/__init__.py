"""Losses for semantic segmentation."""

from finetune.losses.functional import Reduce, alone, ce_dice, cross_entropy, dice, focal, mask
from finetune.losses.module import LOSSES, SegmentationLoss

__all__ = ["LOSSES", "Reduce", "SegmentationLoss", "alone", "ce_dice", "cross_entropy", "dice", "focal", "mask"]

"""Losses of binary masks, one per class, as pure functions on logits.

Every function takes logits (B, K, H, W) and a target (B, K, H, W) of 0, 1 and `ignore_index` in any integer type. An
ignored pixel may count for one class and not for another. Ignored pixels, batches without a pixel that counts, and
`reduce` are treated as in `finetune.losses.functional`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from finetune.losses.functional import Reduce, focal_terms, mean_dice, no_reduction, weighted_mean


def bce(
    logits: Tensor,
    target: Tensor,
    ignore_index: int = 255,
    weight: Tensor | None = None,
    reduce: Reduce = no_reduction,
) -> Tensor:
    """Return the mean binary cross-entropy over all pixels and classes that count, weighted by class.

    Args:
        logits: scores (B, K, H, W), float.
        target: masks (B, K, H, W) of 0, 1 and `ignore_index`.
        ignore_index: label of the pixels to leave out.
        weight: class weights (K,), same float type as the logits.
        reduce: adds up the sums of all devices.
    """
    valid, truth = _split(target, ignore_index, logits.dtype)
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    return _mean_over_classes(entropy * valid, valid, weight, reduce)


def mask_dice(
    logits: Tensor,
    target: Tensor,
    ignore_index: int = 255,
    weight: Tensor | None = None,
    reduce: Reduce = no_reduction,
) -> Tensor:
    """Return one minus soft Dice of sigmoids, computed per class over the whole batch.

    It is the mean over the classes that have a pixel in the target, weighted by class.

    Args:
        logits: scores (B, K, H, W), float.
        target: masks (B, K, H, W) of 0, 1 and `ignore_index`.
        ignore_index: label of the pixels to leave out.
        weight: class weights (K,), same float type as the logits.
        reduce: adds up the sums of all devices.

    Source: Milletari et al. 2016, https://arxiv.org/abs/1606.04797 (with a plain, not squared, denominator)
    """
    valid, truth = _split(target, ignore_index, logits.dtype)
    p = logits.sigmoid() * valid
    return mean_dice(_sum_by_class(p * truth), _sum_by_class(p), _sum_by_class(truth), weight, reduce)


def bce_dice(
    logits: Tensor,
    target: Tensor,
    ignore_index: int = 255,
    weight: Tensor | None = None,
    dice_weight: float = 1.0,
    reduce: Reduce = no_reduction,
) -> Tensor:
    """Return binary cross-entropy plus `dice_weight` times the Dice loss of sigmoids."""
    entropy = bce(logits, target, ignore_index, weight, reduce)
    return entropy + dice_weight * mask_dice(logits, target, ignore_index, weight, reduce)


def sigmoid_focal(
    logits: Tensor,
    target: Tensor,
    ignore_index: int = 255,
    weight: Tensor | None = None,
    gamma: float = 2.0,
    alpha: float = 0.25,
    reduce: Reduce = no_reduction,
) -> Tensor:
    """Return the mean sigmoid focal loss over all pixels and classes that count, weighted by class.

    Args:
        logits: scores (B, K, H, W), float.
        target: masks (B, K, H, W) of 0, 1 and `ignore_index`.
        ignore_index: label of the pixels to leave out.
        weight: class weights (K,), same float type as the logits.
        gamma: how strongly easy pixels are down-weighted.
        alpha: weight of the pixels of a class, 0..1; all others have 1 - alpha.
        reduce: adds up the sums of all devices.

    Source: Lin et al. 2017, https://arxiv.org/abs/1708.02002
    """
    valid, truth = _split(target, ignore_index, logits.dtype)
    terms = focal_terms(logits, logits.sigmoid(), truth, gamma, alpha)
    return _mean_over_classes(terms * valid, valid, weight, reduce)


def _split(target: Tensor, ignore_index: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return which pixels count and which are of the class, both (B, K, H, W) of 0 and 1."""
    valid = target.int() != ignore_index  # as uint8, -100 == 156
    return valid.to(dtype), target.masked_fill(~valid, 0).to(dtype)


def _mean_over_classes(values: Tensor, valid: Tensor, weight: Tensor | None, reduce: Reduce) -> Tensor:
    total, count = _sum_by_class(values), _sum_by_class(valid)
    if weight is not None:
        total, count = total * weight, count * weight
    return weighted_mean(total.sum(), count.sum(), reduce)


def _sum_by_class(values: Tensor) -> Tensor:
    return values.sum((0, 2, 3))

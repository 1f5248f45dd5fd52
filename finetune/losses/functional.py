"""Losses of class indices, as pure functions on logits.

Every function takes logits (B, K, H, W) and a target (B, H, W) of class indices in any integer type. Pixels labeled
`ignore_index` add nothing to the value and receive a gradient of exactly zero. A batch in which every pixel is ignored
costs 0, not NaN. Nothing here waits for the GPU: no branch depends on a tensor's value.

Each loss is a fraction of sums over pixels, and the sums go through `reduce`. When `reduce` adds up the sums of all
devices, the loss is that of the global batch, on any number of devices.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

TINY = 1e-7  # only ever divides a numerator that is zero as well
Reduce = Callable[[Tensor], Tensor]


def no_reduction(sums: Tensor) -> Tensor:
    """Return the sums unchanged, for a batch that one device holds alone."""
    return sums


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    ignore_index: int = 255,
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    reduce: Reduce = no_reduction,
) -> Tensor:
    """Return the mean cross-entropy over the pixels that count, each weighted by its class.

    Equal to `torch.nn.functional.cross_entropy`, except that an all-ignored batch costs 0 here and NaN there.

    Args:
        logits: scores (B, K, H, W), float.
        target: class indices (B, H, W), any integer type.
        ignore_index: label of the pixels to leave out.
        weight: class weights (K,), same float type as the logits.
        label_smoothing: fraction of the target spread evenly over all classes, 0..1.
        reduce: adds up the sums of all devices.
    """
    return _cross_entropy(F.log_softmax(logits, dim=1), target, ignore_index, weight, label_smoothing, reduce)


def dice(
    logits: Tensor,
    target: Tensor,
    ignore_index: int = 255,
    weight: Tensor | None = None,
    smooth: float = 0.0,
    reduce: Reduce = no_reduction,
) -> Tensor:
    """Return one minus soft Dice, computed per class over the whole batch and averaged over the classes in the target.

    Classes that the target lacks are left out of the mean. smp counts them as a loss of 0, so its value is this one
    times (classes present / K).

    Args:
        logits: scores (B, K, H, W), float.
        target: class indices (B, H, W), any integer type.
        ignore_index: label of the pixels to leave out.
        weight: class weights (K,) of the mean over classes, same float type as the logits.
        smooth: added to numerator and denominator, in pixels; softens the loss of very small classes
            (smp's `smooth` is half of this one).
        reduce: adds up the sums of all devices.

    Source: Milletari et al. 2016, https://arxiv.org/abs/1606.04797 (with a plain, not squared, denominator)
    """
    return _dice(F.softmax(logits, dim=1), target, ignore_index, weight, reduce, smooth)


def ce_dice(
    logits: Tensor,
    target: Tensor,
    ignore_index: int = 255,
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    dice_weight: float = 1.0,
    reduce: Reduce = no_reduction,
) -> Tensor:
    """Return cross-entropy plus `dice_weight` times Dice; both share one softmax."""
    log_p = F.log_softmax(logits, dim=1)
    entropy = _cross_entropy(log_p, target, ignore_index, weight, label_smoothing, reduce)
    return entropy + dice_weight * _dice(log_p.exp(), target, ignore_index, weight, reduce)


def focal(
    logits: Tensor,
    target: Tensor,
    ignore_index: int = 255,
    gamma: float = 2.0,
    weight: Tensor | None = None,
    reduce: Reduce = no_reduction,
) -> Tensor:
    """Return cross-entropy with each pixel scaled by (1 - p)^gamma, p the softmax probability of its true class.

    This is the softmax form of the paper's loss; smp and torchvision sum K sigmoid losses instead. With `gamma=0` it
    equals `cross_entropy`.

    Args:
        logits: scores (B, K, H, W), float.
        target: class indices (B, H, W), any integer type.
        ignore_index: label of the pixels to leave out.
        gamma: how strongly easy pixels are down-weighted.
        weight: class weights (K,), same float type as the logits; the paper's alpha.
        reduce: adds up the sums of all devices.

    Source: Lin et al. 2017, https://arxiv.org/abs/1708.02002
    """
    target = target.long()
    log_p = F.log_softmax(logits, dim=1)
    loss = F.nll_loss(log_p, target, weight, ignore_index=ignore_index, reduction="none")
    log_p_true = -F.nll_loss(log_p, target, ignore_index=ignore_index, reduction="none")
    # the clamp keeps the gradient of x^gamma finite at p = 1 when gamma < 1
    miss = (-torch.expm1(log_p_true)).clamp_min(TINY)
    return weighted_mean((miss**gamma * loss).sum(), _pixel_weight(target, ignore_index, weight, loss.dtype), reduce)


def sigmoid_focal_dice(
    logits: Tensor,
    target: Tensor,
    ignore_index: int = 255,
    weight: Tensor | None = None,
    focal_weight: float = 20.0,
    dice_weight: float = 1.0,
    gamma: float = 2.0,
    reduce: Reduce = no_reduction,
) -> Tensor:
    """Return `focal_weight` times sigmoid focal loss plus `dice_weight` times Dice of sigmoids, each class a mask.

    This is MaskFormer's mask loss without the matching, because the mask of each class is known. The focal loss is the
    mean over pixels and classes, with MaskFormer's alpha of 0.25; Dice is the mean over the classes in the target.

    Args:
        logits: scores (B, K, H, W), float.
        target: class indices (B, H, W), any integer type.
        ignore_index: label of the pixels to leave out.
        weight: class weights (K,), same float type as the logits.
        focal_weight: weight of the focal loss.
        dice_weight: weight of Dice.
        gamma: how strongly easy pixels are down-weighted.
        reduce: adds up the sums of all devices.

    Source: Cheng et al. 2021, https://arxiv.org/abs/2107.06278
    """
    valid = target.int() != ignore_index  # as uint8, -100 == 156
    label = target.long().masked_fill(~valid, 0).unsqueeze(1)
    truth = torch.zeros_like(logits).scatter_(1, label, 1.0)
    p = logits.sigmoid()
    by_class = (focal_terms(logits, p, truth, gamma, alpha=0.25) * valid.unsqueeze(1)).sum((0, 2, 3))
    share = torch.ones_like(by_class) if weight is None else weight
    focused = weighted_mean((by_class * share).sum(), share.sum() * valid.sum().to(share.dtype), reduce)
    return focal_weight * focused + dice_weight * _dice(p, target, ignore_index, weight, reduce)


def _cross_entropy(
    log_p: Tensor, target: Tensor, ignore_index: int, weight: Tensor | None, label_smoothing: float, reduce: Reduce
) -> Tensor:
    target = target.long()
    # the sum inside of nll_loss differs from call to call on a GPU
    total = F.nll_loss(log_p, target, weight, ignore_index=ignore_index, reduction="none").sum()
    if label_smoothing:
        every_class = -log_p.sum(1) if weight is None else -torch.einsum("bkhw,k->bhw", log_p, weight)
        spread = (every_class * (target != ignore_index)).sum() / log_p.shape[1]
        total = (1 - label_smoothing) * total + label_smoothing * spread
    return weighted_mean(total, _pixel_weight(target, ignore_index, weight, log_p.dtype), reduce)


def _pixel_weight(target: Tensor, ignore_index: int, weight: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Return the sum of the class weights over the pixels that count."""
    valid = target != ignore_index
    if weight is None:
        return valid.sum().to(dtype)
    return (weight[target.masked_fill(~valid, 0)] * valid).sum()


def weighted_mean(total: Tensor, weight: Tensor, reduce: Reduce) -> Tensor:
    """Return total / weight after `reduce`, both scalars; 0 where both are 0."""
    total, weight = reduce(torch.stack([total, weight])).unbind()
    return total / torch.where(weight > 0, weight, 1)


def focal_terms(logits: Tensor, p: Tensor, truth: Tensor, gamma: float, alpha: float) -> Tensor:
    """Return the sigmoid focal loss of each pixel and class.

    Args:
        logits: scores (B, K, H, W), float.
        p: their sigmoid.
        truth: masks (B, K, H, W) of 0 and 1, in the logits' type.
        gamma: how strongly easy pixels are down-weighted.
        alpha: weight of the pixels of a class, 0..1; all others have 1 - alpha.
    """
    # the clamp keeps the gradient of x^gamma finite at 0 when gamma < 1
    miss = (p - truth).abs().clamp_min(TINY)
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    return (1 - alpha + (2 * alpha - 1) * truth) * miss**gamma * entropy


def mean_dice(
    overlap: Tensor, predicted: Tensor, size: Tensor, weight: Tensor | None, reduce: Reduce, smooth: float = 0.0
) -> Tensor:
    """Return one minus Dice, averaged over the classes of positive size; all sums are per class (K,)."""
    overlap, predicted, size = reduce(torch.stack([overlap, predicted, size])).unbind()
    score = (2 * overlap + smooth) / (predicted + size + smooth).clamp_min(TINY)
    share = (size > 0).to(score.dtype) if weight is None else (size > 0) * weight
    return ((1 - score) * share).sum() / share.sum().clamp_min(TINY)


def _dice(
    p: Tensor, target: Tensor, ignore_index: int, weight: Tensor | None, reduce: Reduce, smooth: float = 0.0
) -> Tensor:
    target = target.long()
    valid = target != ignore_index
    label = target.masked_fill(~valid, 0)  # any class: its probability is set to zero next
    p = p * valid.unsqueeze(1)
    p_true = p.gather(1, label.unsqueeze(1)).squeeze(1)

    overlap = _sum_per_class(p_true, label, p.shape[1])
    size = _sum_per_class(valid.to(p.dtype), label, p.shape[1])
    return mean_dice(overlap, p.sum((0, 2, 3)), size, weight, reduce, smooth)


def _sum_per_class(values: Tensor, label: Tensor, classes: int) -> Tensor:
    """Sum values (B, H, W) by label into (K,); four times faster than a one-hot mask."""
    # rows first: one float32 running sum over millions of pixels would lose digits, and GPU atomics would queue
    batch, height, _ = values.shape
    rows = values.new_zeros(batch, height, classes).scatter_add(2, label, values)
    return rows.sum((0, 1))

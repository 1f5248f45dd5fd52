"""Symptoms of a training that goes wrong, as pure functions from its numbers to a message with the next move, or None.

A symptom has to last for a few validations, `patience`, so that a single odd one says nothing. Values are smoothed by
a median over as many validations. All comparisons with NaN are false, so a score that is missing is no symptom.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import NamedTuple

HALF = 0.5  # fraction of the training after which a class should be found and a frozen backbone be judged
CHANCE_FROM = 0.1  # fraction of the training after which a score should be better than chance
CHANCE_FROM_STEP = 100  # and after which optimizer step; a random head needs some to get anywhere
# part of the way from chance to a perfect score that still is chance, as far as that is not twice chance
CHANCE_MARGIN = 0.05
FOUND = 0.01  # fraction of a class's pixels, at which it counts as found
FLAT = 0.05  # smallest fraction by which a loss improves that has not flattened


class Validation(NamedTuple):
    """The numbers of one validation.

    Attributes:
        step: optimizer steps that are done.
        progress: fraction of the training's steps that are done.
        train_loss: mean over the epoch so far.
        val_loss: mean over the validation images.
        iou: mean over classes.
        chance: IoU of predictions that ignore the image; see `chance_iou`.
        unfound: classes with pixels in the validation images, hardly any of which is predicted.
    """

    step: int
    progress: float
    train_loss: float
    val_loss: float
    iou: float
    chance: float
    unfound: tuple[str, ...] = ()


def chance_iou(shares: Sequence[float], exclusive: bool = True) -> float:
    """Return the best mean IoU of predictions that do not depend on the image; NaN without pixels.

    If classes exclude each other, that is the most frequent class everywhere, which scores its share, and the other
    classes 0; or each class at random in as many pixels as it has, which overlap by chance in its squared share. If
    they do not, it is every class everywhere.

    Args:
        shares: fraction of the pixels that each class has.
        exclusive: whether a pixel has one class only.

    >>> chance_iou([0.9, 0.1, 0.0]), chance_iou([0.5, 0.25], exclusive=False)
    (0.45, 0.375)
    """
    present = [share for share in shares if share > 0]
    if not present:
        return math.nan
    if not exclusive:
        return sum(present) / len(present)
    return max(max(present), sum(share / (2 - share) for share in present)) / len(present)


def unfound_classes(rows: Sequence[Mapping[str, str | float]]) -> tuple[str, ...]:
    """Return the classes that have pixels, hardly any of which is predicted.

    Args:
        rows: `class`, `pixel_share` and `recall` of each class, as `Evaluator.class_rows` returns them.
    """
    return tuple(str(row["class"]) for row in rows if float(row.get("recall", math.nan)) < FOUND)


def class_unfound(
    history: Sequence[Validation], patience: int, shares: Mapping[str, float], moves: Sequence[str]
) -> str | None:
    """Return a message if some class has not been found for the last validations, after half of the training.

    Args:
        history: all validations so far.
        patience: number of validations that a symptom lasts.
        shares: fraction of the training pixels of each class, as far as it is known.
        moves: settings that may help, each with a phrase about it.
    """
    latest = history[-patience:]
    if len(latest) < patience or latest[-1].progress < HALF:
        return None
    names = [name for name in latest[-1].unfound if all(name in each.unfound for each in latest)]
    names = [name for name in names if shares.get(name) != 0]  # those without a training pixel cannot be learned
    if not names:
        return None
    shown = ", ".join(
        f"{name} ({shares[name]:.2%} of the training pixels)" if name in shares else name for name in names
    )
    return f"hardly a pixel of these classes of the validation images is predicted: {shown}. Next: {', '.join(moves)}."


def overfitting(history: Sequence[Validation], patience: int) -> str | None:
    """Return a message if all last validations are worse than before, by loss and IoU, and the training loss better."""
    if len(history) < 2 * patience:
        return None
    trains = smoothed([each.train_loss for each in history], patience)
    losses = smoothed([each.val_loss for each in history], patience)
    lowest, highest = losses.index(min(losses)), max(smoothed([each.iou for each in history], patience))
    # the best of the latest: one that goes up and down with a high learning rate does not overfit
    loss, iou = min(each.val_loss for each in history[-patience:]), max(each.iou for each in history[-patience:])
    is_worse = loss > 1.2 * losses[lowest] and iou < 0.97 * highest and highest > _chance(history[-1])
    if not (is_worse and trains[-1] < 0.9 * trains[lowest]):
        return None
    return (
        f"overfitting: the training loss fell from {trains[lowest]:.3f} to {trains[-1]:.3f}, but the validation loss "
        f"rose from {losses[lowest]:.3f} to {loss:.3f} and the IoU fell from {highest:.3f} to {iou:.3f}. There are few "
        f"training images for so many parameters, or wrong masks. Next: augment=strong; tuning=frozen or tuning=lora, "
        f"with which fewer parameters train; callbacks.early_stopping.patience=5; finetune audit, which finds "
        f"suspicious masks."
    )


def at_chance(history: Sequence[Validation], patience: int, lr: float) -> str | None:
    """Return a message if no score was better than chance so far, after a tenth of the training."""
    if len(history) < patience or history[-1].progress < CHANCE_FROM or history[-1].step < CHANCE_FROM_STEP:
        return None
    if not all(map(_is_chance, history)):
        return None
    latest = history[-1]
    return (
        f"the IoU is {latest.iou:.3f}, and predictions that ignore the image would have {latest.chance:.3f}: "
        f"after {latest.progress:.0%} of the training the model has learned nothing that helps on other images. "
        f"Next: do masks fit their images in plots/augmentation.png; finetune audit; is data.mask_values right; if "
        f"they are, optimizer.lr={third(lr)}."
    )


def frozen_backbone(history: Sequence[Validation], patience: int) -> str | None:
    """Return a message if a model whose backbone never trains has stopped learning early, on training images too.

    That is: after half of the training the loss is flat over the last third of the validations; the validation loss is
    hardly higher, so more data would not help; and the IoU was above chance, but is not half way to a perfect one.
    """
    if not history or history[-1].progress < HALF or len(history) < 3 * patience:
        return None
    losses = smoothed([each.train_loss for each in history], patience)
    before = losses[-1 - len(history) // 3]
    latest = history[-patience:]
    is_flat = losses[-1] > (1 - FLAT) * before
    has_no_gap = median(each.val_loss for each in latest) < 1.25 * losses[-1]
    is_low = all(each.iou < (1 + each.chance) / 2 for each in latest) and not all(map(_is_chance, history))
    if not (is_flat and has_no_gap and is_low):
        return None
    return (
        f"the frozen backbone seems to limit the model: the training loss was {before:.3f} a third of the time ago, "
        f"is {losses[-1]:.3f}, and the IoU is {latest[-1].iou:.3f}. Next: tuning=discriminative, or "
        f"tuning.unfreeze_at=0.2 to train the backbone from a fifth of the training on."
    )


def rising_loss(history: Sequence[Validation], patience: int, lr: float) -> str | None:
    """Return a message if the training loss is well above an earlier value, so the learning rate is too high."""
    losses = smoothed([each.train_loss for each in history], patience)
    if len(losses) < 2:
        return None
    lowest, latest = min(losses[:-1]), losses[-1]
    if not (latest > 1.25 * lowest and latest - lowest > 0.2 * losses[0]):  # noise of a loss near 0 is no rise
        return None
    return (
        f"the training loss has risen again, from {lowest:.3f} to {latest:.3f}: the learning rate is too high. "
        f"Next: optimizer.lr={third(lr)}."
    )


def smoothed(values: Sequence[float], count: int) -> list[float]:
    """Return the median of each `count` successive values.

    >>> smoothed([1.0, 9.0, 2.0, 3.0], 3)
    [2.0, 3.0]
    """
    return [median(values[end - count : end]) for end in range(count, len(values) + 1)]


def third(lr: float) -> str:
    """Return a third of a learning rate as it is typed.

    >>> third(1e-3)
    '0.00033'
    """
    return f"{lr / 3:.2g}"


def _is_chance(each: Validation) -> bool:
    return each.iou <= _chance(each)


def _chance(each: Validation) -> float:
    """Return the highest IoU that counts as chance."""
    return each.chance + min(CHANCE_MARGIN * (1 - each.chance), each.chance)

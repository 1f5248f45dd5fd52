"""The confusion matrix of a segmentation, and the scores that are one line of arithmetic on it.

A matrix holds pixel counts (K, K), int64: rows are the truth, columns the prediction. Counts add up exactly over
batches and ranks, so scores of the sum do not depend on how the images were distributed.

Scores are float64 (K,). NaN marks a class whose score is 0/0; `mean` leaves it out. A class that was never true but
was predicted has IoU 0, not NaN: a model must not gain by inventing classes.
"""

import torch
from torch import Tensor


def confusion_matrix(prediction: Tensor, target: Tensor, classes: int, ignore_index: int = 255) -> Tensor:
    """Return pixel counts (K, K), int64: rows truth, columns prediction; ignored pixels are left out.

    Args:
        prediction: class indices, any shape and integer type.
        target: class indices or `ignore_index`, same shape, any integer type.
        classes: K.
        ignore_index: label of the pixels to leave out.

    Raises:
        ValueError: the shapes differ, or a label lies outside 0..K-1 and is not `ignore_index`.

    >>> confusion_matrix(torch.tensor([0, 1, 1, 1]), torch.tensor([0, 0, 1, 255]), classes=2)
    tensor([[1, 1],
            [0, 1]])
    """
    if prediction.shape != target.shape:
        raise ValueError(
            f"the prediction has shape {tuple(prediction.shape)}, the target {tuple(target.shape)}. "
            f"Give class indices of one shape: logits.argmax(1) for a target (B, H, W)."
        )
    if target.dtype == torch.uint8:
        target = target.int()  # as uint8, -100 == 156
    ignored = target == ignore_index
    truth = target.masked_fill(ignored, 0)
    _check_range(truth, classes, f"the target, where only {ignore_index} is ignored")
    _check_range(prediction, classes, "the prediction")

    # one number per pair of labels, in int32 for speed; ignored pixels get a number of their own, because
    # removing them first costs ten times as much
    cells = truth.int().mul_(classes).add_(prediction.int()).masked_fill_(ignored, classes**2)
    counts = torch.bincount(cells.flatten(), minlength=classes**2 + 1)
    return counts[:-1].view(classes, classes)


def iou(matrix: Tensor) -> Tensor:
    """Return intersection over union per class; NaN where the class is neither true nor predicted."""
    return _ratio(matrix.diagonal(), matrix.sum(0) + matrix.sum(1) - matrix.diagonal())


def dice(matrix: Tensor) -> Tensor:
    """Return 2 |A and B| / (|A| + |B|) per class; NaN where the class is neither true nor predicted."""
    return _ratio(2 * matrix.diagonal(), matrix.sum(0) + matrix.sum(1))


def f1(matrix: Tensor) -> Tensor:
    """Return the harmonic mean of precision and recall per class; over pixels it equals `dice`."""
    return dice(matrix)


def precision(matrix: Tensor) -> Tensor:
    """Return the fraction of the pixels predicted as a class that belong to it; NaN where it is never predicted."""
    return _ratio(matrix.diagonal(), matrix.sum(0))


def recall(matrix: Tensor) -> Tensor:
    """Return the fraction of the pixels of a class that were predicted as it; NaN where the truth has none."""
    return _ratio(matrix.diagonal(), matrix.sum(1))


def pixel_accuracy(matrix: Tensor) -> Tensor:
    """Return the fraction of all pixels that are right, scalar; NaN when nothing was counted."""
    return _ratio(matrix.diagonal().sum(), matrix.sum())


def frequency_weighted_iou(matrix: Tensor) -> Tensor:
    """Return the mean of the classes' IoU, weighted by their shares of the true pixels, scalar; NaN without pixels."""
    share = _ratio(matrix.sum(1), matrix.sum())
    return torch.where(matrix.sum(1) > 0, share * iou(matrix), share).sum()  # a class without true pixels weighs 0


def kappa(matrix: Tensor) -> Tensor:
    """Return Cohen's kappa, scalar: accuracy above that of guessing with the same frequencies; NaN where that is 1.

    Source: Cohen 1960, https://doi.org/10.1177/001316446002000104
    """
    total = matrix.sum().double()
    chance = (matrix.sum(0).double() * matrix.sum(1).double()).sum() / total**2
    return (pixel_accuracy(matrix) - chance) / (1 - chance)


def mean(values: Tensor) -> Tensor:
    """Return the mean over the classes that have a value, scalar; NaN when none has."""
    return values.nanmean()


def scores(matrix: Tensor) -> dict[str, float]:
    """Return each score as a number: means over the classes that have a value, then scores over all pixels."""
    per_class = {"iou": iou, "dice": dice, "precision": precision, "recall": recall, "f1": f1}
    means = {name: mean(score(matrix)).item() for name, score in per_class.items()}
    whole = {"pixel_accuracy": pixel_accuracy, "frequency_weighted_iou": frequency_weighted_iou, "kappa": kappa}
    return {**means, **{name: score(matrix).item() for name, score in whole.items()}}


def _check_range(labels: Tensor, classes: int, where: str) -> None:
    if not labels.numel():
        return
    low, high = (int(bound) for bound in labels.aminmax())
    if low < 0 or high >= classes:
        stray = low if low < 0 else high
        raise ValueError(
            f"label {stray} in {where}, but there are {classes} classes (0..{classes - 1}). "
            f"Ignore that label, or raise the number of classes."
        )


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    return part.double() / whole.double()  # 0/0 is NaN, the mark of an absent class

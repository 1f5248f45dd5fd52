"""Scores of multi-label segmentation, from the outcomes of every class: true and false, positive and negative."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from finetune.metrics.confusion import mean
from finetune.metrics.evaluator import Counts, Row
from finetune.metrics.table import class_table


def outcomes(prediction: Tensor, target: Tensor, ignore_index: int = 255) -> Tensor:
    """Return pixel counts (K, 4), int64: true positives, false positives, false negatives, true negatives.

    Args:
        prediction: masks (B, K, ...) of 0 and 1, of any integer type.
        target: masks of the same shape, of 0, 1 and `ignore_index`.
        ignore_index: label of the pixels to leave out.

    Raises:
        ValueError: the shapes differ, or a value is none of those above.

    >>> outcomes(torch.tensor([[[1, 1, 0, 0]]]), torch.tensor([[[1, 0, 0, 255]]]))
    tensor([[1, 1, 0, 1]])
    """
    if prediction.shape != target.shape:
        raise ValueError(
            f"the prediction has shape {tuple(prediction.shape)}, the target {tuple(target.shape)}. "
            f"Give masks of one shape (B, K, H, W)."
        )
    valid = target.int() != ignore_index if ignore_index < 0 else target != ignore_index  # as uint8, -100 == 156
    for name, values, counts in (("target", target, valid), ("prediction", prediction, None)):
        is_stray = (values != 0) & (values != 1)
        if counts is not None:
            is_stray &= counts
        if bool(is_stray.any()):
            raise ValueError(
                f"value {int(values[is_stray][0])} in the masks of the {name}; expected 0 and 1, and {ignore_index} to "
                f"ignore."
            )
    predicted, true = (prediction == 1) & valid, (target == 1) & valid
    rest = [dim for dim in range(target.ndim) if dim != 1]
    both, guesses, truths, pixels = (cells.sum(rest) for cells in (predicted & true, predicted, true, valid))
    return torch.stack([both, guesses - both, truths - both, pixels - guesses - truths + both], dim=1)


def iou(counts: Tensor) -> Tensor:
    """Return TP / (TP + FP + FN) per class; NaN where the class is neither true nor predicted."""
    tp, fp, fn, _ = _columns(counts)
    return tp / (tp + fp + fn)


def dice(counts: Tensor) -> Tensor:
    """Return 2 TP / (2 TP + FP + FN) per class; NaN where the class is neither true nor predicted."""
    tp, fp, fn, _ = _columns(counts)
    return 2 * tp / (2 * tp + fp + fn)


def f1(counts: Tensor) -> Tensor:
    """Return the harmonic mean of precision and recall per class; over pixels it equals `dice`."""
    return dice(counts)


def precision(counts: Tensor) -> Tensor:
    """Return TP / (TP + FP) per class; NaN where the class is never predicted."""
    tp, fp, _, _ = _columns(counts)
    return tp / (tp + fp)


def recall(counts: Tensor) -> Tensor:
    """Return TP / (TP + FN) per class; NaN where the truth has none."""
    tp, _, fn, _ = _columns(counts)
    return tp / (tp + fn)


def accuracy(counts: Tensor) -> Tensor:
    """Return (TP + TN) / all pixels that count, per class; NaN where none counts.

    It is close to 1 for a rare class that is never predicted; prefer IoU.
    """
    tp, _, _, tn = _columns(counts)
    return (tp + tn) / counts.double().sum(dim=1)


SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "iou": iou,
    "dice": dice,
    "precision": precision,
    "recall": recall,
    "f1": f1,
    "accuracy": accuracy,
}


class MultilabelEvaluator:
    """Counts masks (B, K, H, W) of 0 and 1, each class by itself; see `Evaluator`.

    Scores are `iou`, `dice`, `precision`, `recall`, `f1` and `accuracy`, each computed per class over all pixels of
    the set and averaged over the classes that have a value, and `iou/<class>`.

    Args:
        class_names: of the K classes.
        ignore_index: label of the pixels to leave out.
    """

    def __init__(self, class_names: Sequence[str], ignore_index: int = 255) -> None:
        self.class_names = tuple(class_names)
        self.ignore_index = ignore_index
        self.reset()

    def reset(self) -> None:
        """Set all counts to zero."""
        self.outcomes = torch.zeros(len(self.class_names), 4, dtype=torch.int64)

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Count masks (B, K, H, W); the counts move to their device."""
        counts = outcomes(prediction, target, self.ignore_index)
        self.outcomes = self.outcomes.to(counts.device) + counts

    def counts(self) -> dict[str, Tensor]:
        """Return the counts (K, 4), by the name `outcomes`."""
        return {"outcomes": self.outcomes}

    def compute(self, counts: Counts) -> dict[str, float]:
        """Return all scores by log key."""
        means = {name: float(mean(score(counts["outcomes"]))) for name, score in SCORES.items()}
        by_class = zip(self.class_names, iou(counts["outcomes"]).tolist(), strict=True)
        return {**means, **{f"iou/{name}": value for name, value in by_class}}

    def class_rows(self, counts: Counts) -> list[Row]:
        """Return one row per class: its name, the fraction of the pixels that have it, and its scores."""
        tp, _, fn, _ = _columns(counts["outcomes"])
        columns = {"pixel_share": (tp + fn) / counts["outcomes"].double().sum(dim=1).clamp(min=1)}
        columns |= {name: score(counts["outcomes"]) for name, score in SCORES.items()}
        return [
            {"class": name, **{key: float(values[i]) for key, values in columns.items()}}
            for i, name in enumerate(self.class_names)
        ]

    def confusion_matrix(self, counts: Counts) -> None:
        """Return None: a pixel may have several classes."""
        return None

    def table(self, counts: Counts) -> str:
        """Return the scores of all classes as text."""
        return class_table(self.class_rows(counts), self.compute(counts))


def _columns(counts: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return TP, FP, FN and TN (K,), float64, so that 0/0 is NaN."""
    tp, fp, fn, tn = counts.double().unbind(dim=1)
    return tp, fp, fn, tn

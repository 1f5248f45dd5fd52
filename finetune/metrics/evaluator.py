"""The interface of an evaluator: the scores of one evaluation, from counts that add up exactly."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

Counts = Mapping[str, Tensor]
Row = dict[str, str | float]


class Evaluator(Protocol):
    """Counts batches and turns the counts into scores.

    How a batch is counted is between it and its task. Counts are int64 tensors of fixed names and shapes. The task sums
    them over all ranks once, at the end of an evaluation; everything else here is a function of that sum. So scores do
    not depend on the number of ranks, on the batch size, or on which rank saw which image. Scores that are not of sums,
    such as average precision, have rows of any number as well, which are concatenated in any order: `instances.ROWS`.

    A score is NaN where it is 0/0, such as the IoU of a class that is neither true nor predicted.
    """

    def __init__(self, class_names: Sequence[str], ignore_index: int = 255) -> None:
        """Take the names of the classes and the label of the pixels to leave out."""

    def reset(self) -> None:
        """Set all counts to zero."""

    def counts(self) -> dict[str, Tensor]:
        """Return the counts of this rank since the last `reset`."""

    def compute(self, counts: Counts) -> dict[str, float]:
        """Return all scores by log key.

        Names without a slash are scores of the whole set, such as `iou`; `iou/<class>` is the score of one class.
        """

    def class_rows(self, counts: Counts) -> list[Row]:
        """Return one row per class, in their order: `class`, `pixel_share`, and a number per score."""

    def confusion_matrix(self, counts: Counts) -> Tensor | None:
        """Return pixel counts (K, K), int64, rows truth; None if a prediction is not one of K classes."""

    def table(self, counts: Counts) -> str:
        """Return the scores of all classes as text."""


class PixelEvaluator(Evaluator, Protocol):
    """An evaluator of predictions for every pixel."""

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Count a batch, as the task predicts it, against its targets."""


def summary(scores: Mapping[str, float]) -> dict[str, float]:
    """Return the scores of the whole set, without those of single classes.

    >>> summary({"iou": 0.5, "iou/sky": 0.5})
    {'iou': 0.5}
    """
    return {name: value for name, value in scores.items() if "/" not in name}


def headline(scores: Mapping[str, float]) -> list[str]:
    """Return the names of the scores to show first: `iou` and the accuracy, or the first score where there is no IoU.

    >>> headline({"dice": 0.7, "iou": 0.5, "pixel_accuracy": 0.9}), headline({"ap": 0.5, "ap50": 0.6})
    (['iou', 'pixel_accuracy'], ['ap'])
    """
    return [name for name in ("iou", "pixel_accuracy", "accuracy") if name in scores] or list(scores)[:1]

"""Scores of semantic segmentation, from one confusion matrix."""

from collections.abc import Sequence

import torch
from torch import Tensor

from finetune.metrics import confusion
from finetune.metrics.evaluator import Counts, Row
from finetune.metrics.table import class_table


class SemanticEvaluator:
    """Counts class indices in a confusion matrix; see `Evaluator`.

    Scores are `iou`, `dice`, `precision`, `recall` and `f1`, each the mean over the classes that have a value,
    `pixel_accuracy`, `frequency_weighted_iou` and `kappa` over all pixels, and `iou/<class>`. All pixels of the set are
    counted before a score is computed.

    Attributes:
        matrix: pixel counts (K, K), int64, of this rank since the last `reset`; rows are the truth.

    Args:
        class_names: of the K classes.
        ignore_index: label of the pixels to leave out.
    """

    def __init__(self, class_names: Sequence[str], ignore_index: int = 255) -> None:
        self.class_names = tuple(class_names)
        self.ignore_index = ignore_index
        self.reset()

    def reset(self) -> None:
        """Set the matrix to zero."""
        classes = len(self.class_names)
        self.matrix = torch.zeros(classes, classes, dtype=torch.int64)

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Count class indices of any shape; the matrix moves to their device."""
        counts = confusion.confusion_matrix(prediction, target, len(self.class_names), self.ignore_index)
        self.matrix = self.matrix.to(counts.device) + counts

    def counts(self) -> dict[str, Tensor]:
        """Return the matrix, by the name `confusion`."""
        return {"confusion": self.matrix}

    def compute(self, counts: Counts) -> dict[str, float]:
        """Return all scores by log key."""
        matrix = counts["confusion"]
        by_class = zip(self.class_names, confusion.iou(matrix).tolist(), strict=True)
        return {**confusion.scores(matrix), **{f"iou/{name}": value for name, value in by_class}}

    def class_rows(self, counts: Counts) -> list[Row]:
        """Return one row per class: its name, its fraction of the true pixels, and its scores."""
        matrix = counts["confusion"]
        columns = {"pixel_share": matrix.sum(dim=1).double() / matrix.sum().clamp(min=1)}
        columns |= {name: score(matrix) for name, score in SCORES.items()}
        return [
            {"class": name, **{key: float(values[i]) for key, values in columns.items()}}
            for i, name in enumerate(self.class_names)
        ]

    def confusion_matrix(self, counts: Counts) -> Tensor:
        """Return the matrix."""
        return counts["confusion"]

    def table(self, counts: Counts) -> str:
        """Return the scores of all classes as text."""
        scores = self.compute(counts)
        rows = class_table(self.class_rows(counts), {"pixel_share": 1.0, **scores})
        return f"{rows}\npixel accuracy {scores['pixel_accuracy']:.4f}"


SCORES = {
    "iou": confusion.iou,
    "dice": confusion.dice,
    "precision": confusion.precision,
    "recall": confusion.recall,
}

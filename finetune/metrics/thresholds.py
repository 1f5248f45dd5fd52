"""Scores at every threshold of a probability."""

import torch
from torch import Tensor

from finetune.metrics import multilabel
from finetune.metrics.calibration import flat_cells, spread_pixels
from finetune.metrics.measurement import ImageBatch

STEPS = 100
SCORES = {"precision": multilabel.precision, "recall": multilabel.recall, "f1": multilabel.f1, "iou": multilabel.iou}


class Thresholds:
    """Counts the pixels with and without a class by their probability of it; see `Measurement`.

    Where a pixel may have several classes, `spread_pixels` are counted.

    Args:
        groups: G, 1 for one of two classes per pixel, and the second is counted; otherwise the number of classes.
        ignore_index: label of the pixels to leave out.
    """

    def __init__(self, groups: int, ignore_index: int) -> None:
        self._steps = torch.zeros(groups, STEPS, 2, dtype=torch.int64)
        self._ignore_index = ignore_index

    def update(self, batch: ImageBatch) -> None:
        """Count the pixels of a batch."""
        if batch.target.ndim == 4:
            probability, target = spread_pixels(batch)
        else:
            probability, target = batch.probabilities[:, 1:], batch.target[:, None]
        cells = (probability * STEPS).long().clamp_(0, STEPS - 1) * 2 + (target == 1)
        cells = flat_cells(cells, target.int() != self._ignore_index, 2 * STEPS)  # as uint8, -100 == 156
        counts = torch.bincount(cells, minlength=self._steps.numel() + 1)[:-1].view_as(self._steps)
        self._steps = self._steps.to(counts.device) + counts

    def sums(self) -> dict[str, Tensor]:
        """Return `steps` (G, STEPS, 2): pixels without and with the class at each probability; int64."""
        return {"steps": self._steps}


def threshold_scores(steps: Tensor) -> dict[str, Tensor]:
    """Return precision, recall, F1 and IoU (G, STEPS) where a probability of at least i / STEPS is the class.

    Args:
        steps: of `Thresholds.sums`.
    """
    negative, positive = steps.flip(1).cumsum(1).flip(1).unbind(-1)
    without, having = steps.sum(1, keepdim=True).unbind(-1)
    outcomes = torch.stack([positive, negative, having - positive, without - negative], dim=-1)
    return {name: score(outcomes.flatten(0, 1)).view(negative.shape) for name, score in SCORES.items()}


def best_threshold(iou: Tensor) -> float:
    """Return the threshold with the highest IoU of (STEPS,); of equal ones, the middle one; 0.5 without any IoU.

    >>> best_threshold(torch.tensor([0.2, 0.7, 0.7, 0.7] + [0.1] * 96))
    0.02
    """
    best = (iou == iou.nan_to_num(-1).max()).nonzero().flatten()
    return float(best[len(best) // 2]) / STEPS if len(best) else 0.5

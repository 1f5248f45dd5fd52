"""Scores at every threshold of a probability."""

import torch
from torch import Tensor

from finetune.metrics import multilabel

STEPS = 100
SCORES = {"precision": multilabel.precision, "recall": multilabel.recall, "f1": multilabel.f1, "iou": multilabel.iou}


def threshold_scores(counts: Tensor) -> dict[str, Tensor]:
    """Return precision, recall, F1 and IoU (G, STEPS) of a class where its probability is at least i / STEPS.

    Args:
        counts: (G, CELLS, 3) of `Confidences`, whose confidence is the probability of the class.
    """
    pixels, positive, _ = counts.view(len(counts), STEPS, -1, 3).sum(2).unbind(-1)
    above, hits = (each.flip(1).cumsum(1).flip(1) for each in (pixels, positive))
    misses, rest = positive.sum(1, keepdim=True) - hits, pixels.sum(1, keepdim=True) - above
    outcomes = torch.stack([hits, above - hits, misses, rest - misses], dim=-1)
    return {name: score(outcomes.flatten(0, 1)).view(hits.shape) for name, score in SCORES.items()}


def best_threshold(iou: Tensor) -> float:
    """Return the threshold with the highest IoU of (STEPS,); of equal ones, the middle one; 0.5 without any IoU.

    >>> best_threshold(torch.tensor([0.2, 0.7, 0.7, 0.7] + [0.1] * 96))
    0.02
    """
    best = (iou == iou.nan_to_num(-1).max()).nonzero().flatten()
    return float(best[len(best) // 2]) / STEPS if len(best) else 0.5

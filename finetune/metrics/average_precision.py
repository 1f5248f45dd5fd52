"""Average precision and recall of detections, by the rules of COCO; sources in `instance_matching`."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from finetune.metrics.instance_matching import AREAS, BITS

RECALLS = torch.from_numpy(np.linspace(0, 1, 101))


def average_precision(right: Tensor, wrong: Tensor, objects: int) -> tuple[float, float]:
    """Return the mean precision at 101 recalls, and the highest recall; NaN without objects.

    The precision at a recall is the highest of those at this or a higher recall; 0 if it is never reached.

    Args:
        right: 1 for each detection that is right (D,), by falling score.
        wrong: 1 for each that is wrong (D,); one that is neither does not count.
        objects: number of true ones.

    >>> average_precision(torch.tensor([1, 0]), torch.tensor([0, 1]), objects=2)  # 51 of 101 recalls
    (0.504950495049505, 0.5)
    """
    if not objects:
        return float("nan"), float("nan")
    found = right.cumsum(0).double()
    precision = found / (found + wrong.cumsum(0)).clamp(min=1)
    highest = torch.cat([precision, precision.new_zeros(1)]).flip(0).cummax(0).values.flip(0)
    recall = found / objects
    return float(highest[torch.searchsorted(recall, RECALLS)].mean()), float(recall[-1:].sum())


def class_tables(columns: Mapping[str, Tensor], kind: str, objects: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """Return average precision and recall of each class at each threshold in each range of areas (K, T, A), float64.

    Args:
        columns: of the detections (D,), in any order; see `instance_matching.COLUMNS`.
        kind: `mask` or `box`.
        objects: true ones by class and range of areas (K, A).
        limit: detections of a class to use in an image.
    """
    keys = (columns["position"], columns["image"], -columns["score"])
    order = torch.from_numpy(np.lexsort([key.numpy() for key in keys]))
    order = order[columns["position"][order] < limit]
    table = torch.empty(len(objects), BITS, 2, dtype=torch.float64)
    for label, numbers in enumerate(objects.tolist()):
        chosen = order[columns["class"][order] == label]
        right, wrong = columns[f"{kind}_right"][chosen], columns[f"{kind}_wrong"][chosen]
        scores = [
            average_precision(right >> bit & 1, wrong >> bit & 1, numbers[bit % len(AREAS)]) for bit in range(BITS)
        ]
        table[label] = torch.tensor(scores, dtype=table.dtype)
    precision, recall = table.view(len(objects), -1, len(AREAS), 2).unbind(-1)
    return precision, recall

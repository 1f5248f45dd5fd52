"""The score of every recipe: dataset IoU from one confusion matrix at native size, mean over the classes present."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from recipe_peers.datasets import VOID, Pair


def dataset_iou(predict: Callable[[Tensor], Tensor], pairs: Sequence[Pair], classes: int) -> float:
    """Return the mean IoU over the classes that are true or predicted anywhere.

    Args:
        predict: called with an image, uint8 (3, H, W); returns its class indices (H, W).
        pairs: images and masks.
        classes: their number.
    """
    matrix = torch.zeros(classes, classes, dtype=torch.int64)
    for image, mask in pairs:
        valid = mask != VOID
        cells = mask[valid].long() * classes + predict(image)[valid].long()
        matrix += torch.bincount(cells, minlength=classes**2).view(classes, classes)
    hit = matrix.diagonal().double()
    return float((hit / (matrix.sum(0) + matrix.sum(1) - hit)).nanmean())

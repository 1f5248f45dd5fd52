"""Objects of a class: its connected areas, and which of them were found."""

import cv2
import numpy as np
from numpy.typing import NDArray

from finetune.metrics.boundaries import Mask

Counts = NDArray[np.int64]

SIZES = ("small", "medium", "large")
LIMITS = (32**2, 96**2)  # pixels from which an object is medium and large, https://cocodataset.org/#detection-eval
NEIGHBORS = 8  # corners connect, too


def detections(true: Mask, predicted: Mask) -> Counts:
    """Count the true objects of a class by size, and how many of them have at least half of their pixels predicted.

    Args:
        true: pixels of the class (H, W).
        predicted: pixels that are predicted as it (H, W).

    Returns:
        (3, 2): detected objects and all objects, for each of `SIZES`.
    """
    sizes, covered = _objects(true, predicted)
    kind = np.digitize(sizes, LIMITS)
    found = np.bincount(kind[2 * covered >= sizes], minlength=len(SIZES))
    return np.stack([found, np.bincount(kind, minlength=len(SIZES))], axis=-1)


def false_alarms(true: Mask, predicted: Mask) -> Counts:
    """Count the predicted objects of a class (2,): those without any true pixel of the class, and all."""
    sizes, covered = _objects(predicted, true)
    return np.array([np.count_nonzero(covered == 0), len(sizes)])


def _objects(mask: Mask, other: Mask) -> tuple[Counts, Counts]:
    """Return the pixels of each object of a mask, and how many of them another mask has."""
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=NEIGHBORS)  # 0 is the background
    sizes, covered = (np.bincount(labels[part], minlength=count)[1:] for part in (mask, mask & other))
    return sizes, covered

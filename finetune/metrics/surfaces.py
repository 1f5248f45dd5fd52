"""Distances between the boundary of a class in the truth and in the prediction, in pixels."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from finetune.metrics.boundaries import Mask

Numbers = NDArray[np.float64]


class Distances(NamedTuple):
    """Distances between two boundaries; one without pixels leaves none at all.

    Attributes:
        true: from each pixel of the true boundary to the nearest one of the predicted boundary (N,).
        predicted: from each pixel of the predicted boundary to the nearest one of the true boundary (M,).
    """

    true: Numbers
    predicted: Numbers


def surface_distances(true: Mask, predicted: Mask) -> Distances:
    """Return the Euclidean distances between the pixels of two boundaries (H, W)."""
    if not (true.any() and predicted.any()):
        return Distances(np.empty(0), np.empty(0))
    # a distance is computed for every pixel, but only those of the boundaries are asked for
    x, y, width, height = cv2.boundingRect((true | predicted).astype(np.uint8))
    true, predicted = (mask[y : y + height, x : x + width] for mask in (true, predicted))
    return Distances(_distances(true, predicted), _distances(predicted, true))


def hausdorff(distances: Distances) -> float:
    """Return the largest distance (Huttenlocher et al. 1993, https://doi.org/10.1109/34.232073)."""
    return float(max(each.max() for each in distances))


def hd95(distances: Distances) -> float:
    """Return the larger of the 95th percentiles of both directions, each interpolated between two distances."""
    return float(max(np.percentile(each, 95) for each in distances))


def assd(distances: Distances) -> float:
    """Return the average symmetric surface distance: the mean over all pixels of both boundaries.

    Source: Heimann et al. 2009, https://doi.org/10.1109/TMI.2009.2013851
    """
    return float(np.concatenate(distances).mean())


def _distances(boundary: Mask, other: Mask) -> Numbers:
    """Return the distance from each pixel of a boundary to the nearest pixel of another one (N,)."""
    everywhere = cv2.distanceTransform((~other).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # OpenCV's last digits differ from run to run, but squares are whole numbers: this is exact up to a thousand pixels
    return np.sqrt(np.rint(everywhere[boundary].astype(np.float64) ** 2))

"""Distances between the boundary of a class in the truth and in the prediction, in pixels."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

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
    points, others = _points(true), _points(predicted)
    if not len(points) or not len(others):
        return Distances(np.empty(0), np.empty(0))
    return Distances(_nearest(points, others), _nearest(others, points))


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


def _points(mask: Mask) -> Numbers:
    """Return row and column of each pixel (N, 2); several times as fast as `np.argwhere`."""
    return np.stack(np.divmod(np.flatnonzero(mask), mask.shape[1]), axis=-1).astype(np.float64)


def _nearest(points: Numbers, others: Numbers) -> Numbers:
    # a tree that is not balanced is built in half of the time, and pixels are spread evenly enough
    return np.asarray(KDTree(others, balanced_tree=False, compact_nodes=False).query(points)[0])

"""Give pixels of soft edges and of JPEG noise the class of the most similar value nearby."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

REACH = 2  # pixels: how far a soft edge lies from a pure value


def snap_unknown(
    labels: npt.NDArray[np.int16],
    values: npt.NDArray[np.integer],
    by_code: Mapping[int, int],
    colored: bool,
    ignored: int,
) -> npt.NDArray[np.int16]:
    """Return labels in which every unknown pixel has the label of the most similar value around it.

    A blend of two values may look like a third: the gray between black and white is a class of its own elsewhere.
    Therefore a pixel takes the most similar of the listed values within `REACH` pixels, and the most similar of the
    values of all classes only if none is there.

    Args:
        labels: (H, W), -1 for unknown pixels.
        values: numbers or 24-bit colors in the mask (H, W).
        by_code: label of each listed number or color.
        colored: whether values are colors, compared by their distance in RGB.
        ignored: label of the values that are no class.
    """
    rows, columns = np.nonzero(labels < 0)
    codes = np.array(list(by_code))
    listed, of_codes = _vectors(codes, colored), np.array(list(by_code.values()), dtype=np.int16)
    unknown = _vectors(values[rows, columns], colored)
    of_classes = of_codes != ignored
    snapped = of_codes[of_classes][_nearest(unknown, listed[of_classes])]
    best_distance = np.full(len(rows), np.inf, dtype=np.float32)
    known = np.where(labels < 0, 0, _vector_index(values, codes))
    for dy in range(-REACH, REACH + 1):
        for dx in range(-REACH, REACH + 1):
            y, x = (rows + dy).clip(0, labels.shape[0] - 1), (columns + dx).clip(0, labels.shape[1] - 1)
            distance = _distance(unknown, listed[known[y, x]])
            distance[labels[y, x] < 0] = np.inf
            closer = distance < best_distance
            best_distance[closer] = distance[closer]
            snapped[closer] = labels[y, x][closer]
    result = labels.copy()
    result[rows, columns] = snapped
    return result


def _vectors(codes: npt.NDArray[np.integer], colored: bool) -> npt.NDArray[np.float32]:
    """Return numbers as vectors (N, 1), or colors as (N, 3)."""
    channels = (codes >> 16 & 255, codes >> 8 & 255, codes & 255) if colored else (codes,)
    return np.stack(channels, axis=-1).astype(np.float32)


def _vector_index(values: npt.NDArray[np.integer], codes: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Return the position in codes of each value that is among them; of others, any position."""
    order = np.argsort(codes)
    found = np.searchsorted(codes, values, sorter=order).clip(0, len(codes) - 1)
    positions: npt.NDArray[np.int64] = order[found]
    return positions


def _nearest(vectors: npt.NDArray[np.float32], listed: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    best = np.zeros(len(vectors), dtype=np.int64)
    distance = np.full(len(vectors), np.inf, dtype=np.float32)
    for index, vector in enumerate(listed):
        other = _distance(vectors, vector)
        closer = other < distance
        best[closer], distance[closer] = index, other[closer]
    return best


def _distance(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    squared: npt.NDArray[np.float32] = ((one - other) ** 2).sum(-1)
    return squared

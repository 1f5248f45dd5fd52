"""Connected components of label maps, of runs instead of pixels: fast without a library for it."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Components:
    """The 4-connected components of a label map (H, W): maximal areas of one label.

    Attributes:
        runs: index of the run of each pixel (H, W); a run is a stretch of one label in one row.
        of_run: component of each run (R,), from 0 to C - 1.
        labels: label of each component (C,), uint8.
        areas: pixels of each component (C,), int64.
    """

    runs: npt.NDArray[np.int32]
    of_run: Indices
    labels: Labels
    areas: npt.NDArray[np.int64]

    def mask(self, chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Return the pixels (H, W) of the chosen components (C,)."""
        pixels: npt.NDArray[np.bool_] = chosen[self.of_run][self.runs]
        return pixels


def find_components(labels: Labels) -> Components:
    """Return the components of a label map (H, W), uint8, of at least one pixel.

    >>> find_components(np.array([[1, 0], [1, 1]], dtype=np.uint8)).areas.tolist()
    [3, 1]
    """
    begins = np.ones(labels.shape, dtype=bool)
    np.not_equal(labels[:, 1:], labels[:, :-1], out=begins[:, 1:])
    starts = np.flatnonzero(begins)
    lengths = np.diff(starts, append=labels.size)
    runs = np.repeat(np.arange(len(starts), dtype=np.int32), lengths).reshape(labels.shape)
    # two runs of one label touch first where one of them begins, so one pixel tells of each contact
    touches = np.flatnonzero((labels[1:] == labels[:-1]) & (begins[1:] | begins[:-1]))
    roots = _roots(len(starts), runs.ravel()[touches], runs.ravel()[touches + labels.shape[1]])
    is_root = roots == np.arange(len(starts))
    first, of_run = np.flatnonzero(is_root), (is_root.cumsum() - 1)[roots]
    areas = np.bincount(of_run, weights=lengths).astype(np.int64)
    return Components(runs, of_run, labels.ravel()[starts[first]], areas)


def _roots(count: int, ours: npt.NDArray[np.int32], theirs: npt.NDArray[np.int32]) -> Indices:
    """Return the smallest index that each of `count` things is linked with, over any number of links."""
    roots = np.arange(count, dtype=np.intp)
    while True:
        one, other = roots[ours], roots[theirs]
        is_open = one != other
        if not is_open.any():
            return roots
        ours, theirs, one, other = ours[is_open], theirs[is_open], one[is_open], other[is_open]
        np.minimum.at(roots, np.maximum(one, other), np.minimum(one, other))
        while not np.array_equal(shorter := roots[roots], roots):
            roots = shorter

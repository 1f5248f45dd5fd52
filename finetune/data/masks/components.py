"""Connected components and pixels by value of label maps, of runs instead of pixels: fast without a library."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.data.stencil import Stencil

Labels = npt.NDArray[Any]  # of any kind of whole numbers
Indices = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Components:
    """The 4-connected components of a label map (H, W): maximal areas of one label.

    Attributes:
        runs: index of the run of each pixel (H, W); a run is a stretch of one label in one row.
        of_run: component of each run (R,), from 0 to C - 1.
        labels: label of each component (C,).
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
    """Return the components of a label map (H, W) of at least one pixel.

    >>> find_components(np.array([[1, 0], [1, 1]], dtype=np.uint8)).areas.tolist()
    [3, 1]
    """
    begins = _begins(labels)
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


def _begins(values: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
    """Return where a stretch of one value in a row begins (H, W)."""
    begins = np.ones(values.shape, dtype=bool)
    np.not_equal(values[:, 1:], values[:, :-1], out=begins[:, 1:])
    return begins


def pixels_by_value(values: npt.NDArray[np.integer]) -> Iterator[tuple[int, Stencil]]:
    """Yield each value of a map (H, W), in ascending order, with the pixels that have it, in the smallest window.

    >>> [(value, stencil.covered.tolist()) for value, stencil in pixels_by_value(np.array([[7, 3], [7, 7]]))]
    [(3, [[True]]), (7, [[True, False], [True, True]])]
    """
    starts = np.flatnonzero(_begins(values))
    rows, firsts = np.divmod(starts, values.shape[1])
    ends = firsts + np.diff(starts, append=values.size)
    found, of_run = np.unique(values.ravel()[starts], return_inverse=True)
    top, left = np.full(len(found), values.shape[0]), np.full(len(found), values.shape[1])
    bottom, right = np.zeros_like(top), np.zeros_like(left)
    np.minimum.at(top, of_run, rows)
    np.minimum.at(left, of_run, firsts)
    np.maximum.at(bottom, of_run, rows + 1)
    np.maximum.at(right, of_run, ends)
    for value, *box in zip(*(numbers.tolist() for numbers in (found, top, left, bottom, right)), strict=True):
        yield value, Stencil(box[0], box[1], values[box[0] : box[2], box[1] : box[3]] == value)


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

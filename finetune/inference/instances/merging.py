"""Objects of overlapping windows as objects of the whole image."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from finetune.data.window import Window
from finetune.instances import ObjectCrop, join_crops

AGREEMENT = 0.5  # above it, two masks are of one object
REACH = 2  # pixels from an inner border of its window up to which an object is cut: masks end about there, not exactly


class _Seen(NamedTuple):
    """An object with the windows that saw it, and its distance from their inner borders in pixels."""

    crop: ObjectCrop
    windows: frozenset[Window]
    distance: float


def merge_windows(found: Sequence[tuple[Window, Sequence[ObjectCrop]]], size: tuple[int, int]) -> list[ObjectCrop]:
    """Return the objects of an image, by falling score, of those that were found in overlapping windows of it.

    An inner border is an edge of a window that is none of the image. An object that touches one is cut.

    1. Cut objects of one class in different windows are joined if their masks agree where both windows see them: if the
       IoU of the masks inside of the overlap exceeds 0.5. The joined object has the highest score of its parts.
    2. Of two objects of one class from different windows, one goes if they share more than half of the smaller one. The
       one that is less cut stays: the one farther from the inner borders of its window, then the larger one. So an
       object that a window saw whole replaces its cut parts.

    What one window tells apart stays apart. Windows that do not overlap leave an object in parts.

    Args:
        found: each window with its objects, in pixels of the image.
        size: height and width of the image.
    """
    each_window = ((window, crop) for window, crops in found for crop in crops)
    seen = [_Seen(crop, frozenset([window]), _distance(crop, window, size)) for window, crop in each_window]
    joined = _joined([each for each in seen if each.distance <= REACH])
    kept = _without_doubles([*(each for each in seen if each.distance > REACH), *joined])
    return sorted((each.crop for each in kept), key=lambda crop: (-crop.score, crop.top, crop.left))


def _distance(crop: ObjectCrop, window: Window, size: tuple[int, int]) -> float:
    """Return the pixels between an object and the nearest inner border of its window; infinite if it has none."""
    (left, top, right, bottom), edges = crop.box, window.box
    gaps = (left - edges[0], top - edges[1], edges[2] - right, edges[3] - bottom)
    is_inner = (edges[0] > 0, edges[1] > 0, edges[2] < size[1], edges[3] < size[0])
    return min((gap for gap, inner in zip(gaps, is_inner, strict=True) if inner), default=np.inf)


def _joined(cut: Sequence[_Seen]) -> list[_Seen]:
    """Return cut objects, joined where their masks agree."""
    groups, windows = np.arange(len(cut)), [each.windows for each in cut]
    for one, other in _pairs(cut):
        first, second = int(groups[one]), int(groups[other])
        if not windows[first] & windows[second] and _overlap_iou(cut[one], cut[other]) > AGREEMENT:
            groups[groups == second] = first
            windows[first] |= windows[second]
    members = [(group, np.flatnonzero(groups == group).tolist()) for group in np.unique(groups).tolist()]
    return [_Seen(join_crops([cut[index].crop for index in own]), windows[group], 0.0) for group, own in members]


def _overlap_iou(one: _Seen, other: _Seen) -> float:
    """Return the IoU of two objects inside of the overlap of their windows."""
    (first,), (second,) = one.windows, other.windows
    shared = one.crop.shared(other.crop)  # lies in both windows
    both = int(one.crop.within(second.box).sum()) + int(other.crop.within(first.box).sum())
    return shared / max(1, both - shared)


def _without_doubles(seen: Sequence[_Seen]) -> list[_Seen]:
    """Return the objects without those of which a less cut one has most."""
    order = sorted(seen, key=lambda each: (-each.distance, -each.crop.area))
    is_kept = [True] * len(order)
    for one, other in _pairs(order):  # by the first one, of which everything has been decided then
        if is_kept[one] and is_kept[other]:
            smaller = min(order[one].crop.area, order[other].crop.area)
            is_kept[other] = order[one].crop.shared(order[other].crop) <= AGREEMENT * smaller
    return [each for each, kept in zip(order, is_kept, strict=True) if kept]


def _pairs(seen: Sequence[_Seen]) -> Iterator[tuple[int, int]]:
    """Yield the pairs of one class whose boxes overlap, and that no window saw both of, in ascending order."""
    rows = np.array([(*each.crop.box, each.crop.label) for each in seen]).reshape(-1, 5)
    lefts, tops, rights, bottoms, labels = rows.T
    for one, (left, top, right, bottom, label) in enumerate(rows.tolist()):
        meets = (lefts < right) & (rights > left) & (tops < bottom) & (bottoms > top) & (labels == label)
        for other in (np.flatnonzero(meets[one + 1 :]) + one + 1).tolist():
            if not seen[one].windows & seen[other].windows:
                yield one, other

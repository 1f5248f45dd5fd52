"""Outlines of the areas of a label map, along the edges of its pixels: what `shapes.py` fills, traced again.

Pixel (row r, column c) is the square from (c, r) to (c + 1, r + 1) as x, y, so an outline filled by `Polygon` gives the
same pixels. An outline runs clockwise as seen on the image, and counterclockwise around a hole.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from finetune.data.masks.components import Labels, find_components
from finetune.data.polygons.shapes import Points

Numbers = npt.NDArray[np.int64]
SIDES = 4  # of a pixel: upper, right, lower, left
STARTS = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])  # corner of a pixel, as x, y, at which each side begins


class Region(NamedTuple):
    """A connected area of one label.

    Attributes:
        label: of the pixels.
        area: in pixels.
        rings: the outline, and then those of the holes: corners (N, 2) as x, y, of which the last joins the first.
    """

    label: int
    area: int
    rings: list[Points]


def trace(labels: Labels) -> list[Region]:
    """Return the connected areas of a label map (H, W), uint8, in the order of their first pixels by row.

    Pixels are connected over their four sides.
    """
    found = find_components(labels)
    regions = [Region(int(label), int(area), []) for label, area in zip(found.labels, found.areas, strict=True)]
    firsts, followers = _straight_lines(labels)
    sides, pixels = np.divmod(firsts, labels.size)
    corners = np.stack(np.divmod(pixels, labels.shape[1])[::-1], axis=1) + STARTS[sides]
    owners = found.of_run[found.runs.ravel()[pixels]].tolist()
    for line in _cycles(followers):  # sorted by side and pixel: the first line of an outline is its uppermost one
        regions[owners[line[0]]].rings.append(corners[line].astype(np.float64))
    return regions


def _straight_lines(labels: Labels) -> tuple[Numbers, Numbers]:
    """Return the first sides of the straight lines between areas, and the index of the line that follows each.

    A side is numbered `side * H * W + pixel`, in ascending order; it has its pixel on the right.
    """
    values = np.pad(labels.astype(np.int16), 1, constant_values=-1)
    numbers = np.pad(np.arange(labels.size).reshape(labels.shape), 1)
    firsts, followers = [], []
    for side in range(SIDES):  # each as if it were the upper one, which runs to the right
        turned, pixels = np.rot90(values, side), np.rot90(numbers, side)
        own, above, right, beyond = turned[1:-1, 1:-1], turned[:-2, 1:-1], turned[1:-1, 2:], turned[:-2, 2:]
        is_side = own != above
        goes_on = is_side & (own == right) & (own != beyond)
        is_first = is_side.copy()
        is_first[:, 1:] &= ~goes_on[:, :-1]
        is_last = is_side & ~goes_on
        turns_right = (own != right)[is_last]  # also where only corners touch: they connect nothing
        firsts.append(side * labels.size + pixels[1:-1, 1:-1][is_first])
        next_pixel = np.where(turns_right, pixels[1:-1, 1:-1][is_last], pixels[:-2, 2:][is_last])
        followers.append(np.where(turns_right, side + 1, side - 1) % SIDES * labels.size + next_pixel)
    starts = np.concatenate(firsts)
    order = np.argsort(starts)
    return starts[order], np.searchsorted(starts[order], np.concatenate(followers)[order])


def _cycles(followers: Numbers) -> list[list[int]]:
    """Return the cycles of a permutation, each from its smallest element, in the order of these."""
    following, is_open, cycles = followers.tolist(), [True] * len(followers), []
    for start in range(len(following)):
        cycle, element = list[int](), start
        while is_open[element]:
            is_open[element] = False
            cycle.append(element)
            element = following[element]
        if cycle:
            cycles.append(cycle)
    return cycles


def simplify(ring: Points, tolerance: float) -> Points:
    """Return a ring through fewer points (N, 2), which is within `tolerance` pixels of the centers of all sides.

    The line through these centers has the same pixels inside as the outline, but a diagonal is straight and not a
    stair. An outline that would have no area stays as it is, and so does each one with a tolerance of 0.

    Source: Douglas and Peucker 1973, https://doi.org/10.3138/FM57-6770-U75U-7727
    """
    if tolerance == 0:
        return ring
    centers = side_centers(ring)
    closed = np.concatenate([centers, centers[:1]])
    middle = int(np.hypot(*(centers - centers[0]).T).argmax())
    kept, open_ends = {0, middle}, [(0, middle), (middle, len(centers))]
    while open_ends:
        start, end = open_ends.pop()
        way, offsets = closed[end] - closed[start], closed[start + 1 : end] - closed[start]
        along = (offsets @ way / max(way @ way, 1e-12)).clip(0, 1)
        distances = np.hypot(*(offsets - along[:, None] * way).T)
        if distances.max(initial=0) > tolerance:
            farthest = start + 1 + int(distances.argmax())
            kept.add(farthest)
            open_ends += [(start, farthest), (farthest, end)]
    return centers[sorted(kept)] if len(kept) >= 3 else ring


def side_centers(ring: Points) -> Points:
    """Return the centers of the sides of pixels along an outline."""
    lines = np.roll(ring, -1, axis=0) - ring
    lengths = np.abs(lines).sum(axis=1).astype(np.int64)
    passed = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths) + 0.5
    centers: Points = np.repeat(ring, lengths, axis=0) + passed[:, None] * np.repeat(np.sign(lines), lengths, axis=0)
    return centers


def as_one_ring(rings: list[Points]) -> Points:
    """Return an outline and its holes as one ring, for formats without holes.

    A line leads to each hole and back, which encloses nothing.
    """
    joined = rings[0]
    for hole in rings[1:]:
        near = int(np.abs(joined - hole[0]).sum(axis=1).argmin())
        joined = np.concatenate([joined[: near + 1], hole, hole[:1], joined[near:]])
    return joined

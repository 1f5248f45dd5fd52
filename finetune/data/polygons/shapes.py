"""Shapes in an image, and the pixels that they cover: the same ones on every machine.

Coordinates are in pixels, x to the right and y down, and pixel (row r, column c) has its center at (c + 0.5, r + 0.5).
For polygons, only additions, multiplications and divisions decide, which IEEE 754 rounds in one way.
"""

from dataclasses import dataclass
from math import cos, hypot, sin
from typing import Protocol

import numpy as np
import numpy.typing as npt

from finetune.data.stencil import NOTHING, Stencil

Points = npt.NDArray[np.float64]

SMALLEST_RADIUS = 1e-3  # pixels, of circles and ellipses
MAX_CROSSINGS = 10_000_000  # of edges and rows of pixels in one polygon; they take half a gigabyte


class Shape(Protocol):
    """A region of an image."""

    def window(self, height: int, width: int) -> Stencil:
        """Return the covered pixels of an image; what is beyond the image is cut off.

        Raises:
            ValueError: the shape is too complex.
        """


@dataclass(frozen=True, eq=False, slots=True)
class Polygon:
    """A closed line; inside is what it winds around an odd number of times.

    A pixel is covered if its center is inside. Centers on a left or upper edge belong to the polygon and those on a
    right or lower edge do not, so polygons with a common edge neither overlap nor leave a gap.

    Attributes:
        points: corners (N, 2) as x, y; the last one is joined to the first.
        relative: whether the coordinates are fractions of the image's width and height.
    """

    points: Points
    relative: bool = False

    def window(self, height: int, width: int) -> Stencil:
        """Return the covered pixels."""
        rows, columns = _crossings(self.points * (width, height) if self.relative else self.points, height, width)
        if not len(rows):
            return NOTHING
        top, left = int(rows.min()), int(columns.min())
        shape = int(rows.max()) + 1 - top, int(columns.max()) - left
        # each crossing turns inside to outside or back until the next one of its row, and each row has an even number
        turns = np.sort((rows - top) * shape[1] + (columns - left))
        lengths = np.diff(turns, prepend=0, append=shape[0] * shape[1])
        return Stencil(top, left, np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(shape))


def _crossings(points: Points, height: int, width: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the row and the first column to the right for each place where the line crosses the centers of a row.

    A column is `width` where nothing of the row is to the right.
    """
    following = np.roll(points, -1, axis=0)
    is_downward = (points[:, 1] <= following[:, 1])[:, None]
    # from its upper end, whichever way it runs: an edge that two polygons share crosses a row at the same number
    upper, lower = np.where(is_downward, points, following), np.where(is_downward, following, points)
    first, end = (np.ceil(ends[:, 1] - 0.5).clip(0, height).astype(np.int64) for ends in (upper, lower))
    counts = end - first
    if (total := int(counts.sum())) > MAX_CROSSINGS:
        raise ValueError(
            f"a polygon of {len(points):,} points crosses {total:,} rows; at most {MAX_CROSSINGS:,} can be."
        )
    edges = np.repeat(np.arange(len(points)), counts)
    rows = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts) + first[edges]
    start, way = upper[edges], (lower - upper)[edges]
    x = start[:, 0] + (rows + 0.5 - start[:, 1]) / way[:, 1] * way[:, 0]
    return rows, np.ceil(x - 0.5).clip(0, width).astype(np.int64)


@dataclass(frozen=True, eq=False, slots=True)
class Ellipse:
    """The pixels whose centers are inside of an ellipse or on it.

    Attributes:
        x: of the center.
        y: of the center.
        radius_x: half of the axis that is horizontal without a rotation, above 0.
        radius_y: half of the other one, above 0.
        rotation: clockwise as seen on the image, in radians.
    """

    x: float
    y: float
    radius_x: float
    radius_y: float
    rotation: float = 0.0

    def window(self, height: int, width: int) -> Stencil:
        """Return the covered pixels."""
        c, s = cos(self.rotation), sin(self.rotation)
        reach_x, reach_y = hypot(self.radius_x * c, self.radius_y * s), hypot(self.radius_x * s, self.radius_y * c)
        left, right = (int(min(max(self.x + sign * (reach_x + 1), 0), width)) for sign in (-1, 1))
        top, bottom = (int(min(max(self.y + sign * (reach_y + 1), 0), height)) for sign in (-1, 1))
        x, y = np.arange(left, right) + 0.5 - self.x, (np.arange(top, bottom) + 0.5 - self.y)[:, None]
        with np.errstate(over="ignore"):  # a radius may be next to nothing
            along, across = (x * c + y * s) / self.radius_x, (y * c - x * s) / self.radius_y
            return Stencil(top, left, along * along + across * across <= 1)


def rectangle(left: float, top: float, right: float, bottom: float) -> Points:
    """Return the corners of a rectangle (4, 2)."""
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], dtype=np.float64)


def rotated(points: Points, x: float, y: float, rotation: float) -> Points:
    """Return points (N, 2) turned about a center, clockwise as seen on the image, in radians."""
    if not rotation:
        return points
    turn = np.array([[cos(rotation), sin(rotation)], [-sin(rotation), cos(rotation)]])
    turned: Points = (points - (x, y)) @ turn + (x, y)
    return turned


def paint(
    canvas: npt.NDArray[np.uint8],
    shape: Shape,
    value: int,
    corner: tuple[int, int] = (0, 0),
    size: tuple[int, int] | None = None,
) -> None:
    """Set the pixels that a shape covers, in place.

    Args:
        canvas: an image, or a part of it (H, W).
        shape: in coordinates of the image.
        value: to set.
        corner: row and column of the image at which the part begins.
        size: height and width of the image; None if the canvas is all of it.
    """
    top, left, covered = shape.window(*(size or canvas.shape))
    top, left = top - corner[0], left - corner[1]
    covered = covered[max(0, -top) : max(0, canvas.shape[0] - top), max(0, -left) : max(0, canvas.shape[1] - left)]
    top, left = max(0, top), max(0, left)
    canvas[top : top + covered.shape[0], left : left + covered.shape[1]][covered] = value

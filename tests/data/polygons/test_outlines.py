"""Outlines against a hand-worked label map, and against the pixels that they fill."""

import numpy as np
import pytest

from finetune.data.masks.components import find_components
from finetune.data.polygons.outlines import Region, as_one_ring, simplify, trace
from finetune.data.polygons.shapes import Points, Polygon, paint


def blobs(height: int, width: int, classes: int, scale: int, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, classes, (height // scale + 1, width // scale + 1), dtype=np.uint8)
    return np.ascontiguousarray(noise.repeat(scale, 0).repeat(scale, 1)[:height, :width])


def area(ring: Points) -> float:
    """Return the signed area; positive is clockwise as seen on the image."""
    x, y = ring.T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def test_a_hand_worked_map() -> None:
    labels = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], dtype=np.uint8)
    ring, hole = trace(labels)
    assert (ring.label, ring.area) == (1, 8)
    assert [points.tolist() for points in ring.rings] == [
        [[0, 0], [3, 0], [3, 3], [0, 3]],
        [[1, 2], [2, 2], [2, 1], [1, 1]],
    ]
    assert (hole.label, hole.area, hole.rings[0].tolist()) == (0, 1, [[1, 1], [2, 1], [2, 2], [1, 2]])


def test_areas_that_touch_at_a_corner_are_apart() -> None:
    found = trace(np.array([[1, 0], [0, 1]], dtype=np.uint8))
    assert [region.label for region in found] == [1, 0, 0, 1]
    assert all(len(region.rings) == 1 and len(region.rings[0]) == 4 for region in found)


def filled(regions: list[Region], shape: tuple[int, ...]) -> np.ndarray:
    """Fill each region as a polygon without holes of its own, in any order."""
    canvas = np.full(shape, 9, dtype=np.uint8)
    for region in reversed(regions):
        covered = np.zeros(shape, dtype=np.uint8)
        paint(covered, Polygon(as_one_ring(region.rings)), 1)
        assert covered.sum() == region.area
        assert (canvas[covered == 1] == 9).all()
        canvas[covered == 1] = region.label
    return canvas


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (23, 31), (40, 48)])
@pytest.mark.parametrize("scale", [1, 3])
def test_regions_fill_exactly_their_pixels(size: tuple[int, int], scale: int) -> None:
    for seed in range(2):
        labels = blobs(*size, 3, scale, seed)
        regions = trace(labels)
        assert (filled(regions, size) == labels).all()
        found = find_components(labels)
        assert [region.area for region in regions] == found.areas.tolist()
        for region in regions:
            outline, *holes = map(area, region.rings)
            assert outline > 0
            assert all(hole < 0 for hole in holes)
            assert outline + sum(holes) == region.area


def test_corners_are_kept_only_where_the_outline_turns() -> None:
    for ring in (ring for region in trace(blobs(40, 40, 3, 2, 0)) for ring in region.rings):
        steps = np.roll(ring, -1, axis=0) - ring
        assert ((steps == 0).sum(axis=1) == 1).all()
        assert ((steps != 0) != np.roll(steps != 0, 1, axis=0)).all()


def distance(points: Points, ring: Points) -> float:
    """Return the largest distance of points from a ring, one by one."""
    farthest = 0.0
    for point in points:
        nearest = np.inf
        for start, end in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            way = end - start
            t = min(max((point - start) @ way / (way @ way), 0), 1)
            nearest = min(nearest, float(np.hypot(*(point - start - t * way))))
        farthest = max(farthest, nearest)
    return farthest


def disc() -> np.ndarray:
    rows, columns = np.ogrid[:60, :60]
    return ((rows - 30) ** 2 + (columns - 28) ** 2 < 500).astype(np.uint8)


@pytest.mark.parametrize("tolerance", [0.5, 1.0, 3.0])
def test_a_simplified_ring_is_near_the_center_of_every_side(tolerance: float) -> None:
    ring = trace(disc())[1].rings[0]
    simple = simplify(ring, tolerance)
    assert 3 <= len(simple) < len(ring) / 3
    lines = zip(ring, np.roll(ring, -1, axis=0), strict=True)
    centers = [
        start + (end - start) * (step + 0.5) / np.abs(end - start).sum()
        for start, end in lines
        for step in range(int(np.abs(end - start).sum()))
    ]
    assert distance(np.array(centers), simple) <= tolerance
    filled_again = np.zeros_like(disc())
    paint(filled_again, Polygon(simple), 1)
    both, either = (filled_again & disc()).sum(), (filled_again | disc()).sum()
    assert both / either > 1 - 0.04 * tolerance


def test_the_line_through_the_centers_of_sides_fills_the_same_pixels() -> None:
    canvas = np.zeros((24, 30), dtype=np.uint8)
    labels = blobs(24, 30, 3, 2, 0)
    for region in trace(labels):
        paint(canvas, Polygon(as_one_ring([simplify(ring, 1e-9) for ring in region.rings])), region.label)
    assert (canvas == labels).all()
    stairs = np.tril(np.ones((20, 20), dtype=np.uint8))
    assert len(simplify(trace(stairs)[0].rings[0], 0.01)) <= 8


def test_one_ring_leads_to_each_hole_and_back() -> None:
    labels = disc()
    for row, column in ((22, 20), (33, 36), (40, 22)):
        rows, columns = np.ogrid[:60, :60]
        labels[(rows - row) ** 2 + (columns - column) ** 2 < 30] = 0
    region = next(region for region in trace(labels) if region.label)
    assert len(region.rings) == 4
    canvas = np.zeros_like(labels)
    paint(canvas, Polygon(as_one_ring(region.rings)), 1)
    assert (canvas == labels).all()


def test_a_ring_that_would_vanish_stays() -> None:
    speck = np.array([[0, 0], [2, 0], [2, 1], [1, 1], [1, 2], [0, 2]], dtype=float)
    assert simplify(speck, 5).tolist() == speck.tolist()
    assert simplify(speck, 0) is speck

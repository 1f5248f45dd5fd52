import time
from math import pi

import numpy as np
import pytest

from finetune.data.polygons.shapes import Ellipse, Polygon, paint, rectangle, rotated


def drawn(shape, height=12, width=15):
    canvas = np.zeros((height, width), dtype=np.uint8)
    paint(canvas, shape, 1)
    return canvas


def even_odd(points, height=12, width=15):
    """Cast a ray to the left from the center of each pixel, and count the edges that it crosses."""
    covered = np.zeros((height, width), dtype=np.uint8)
    for row in range(height):
        for column in range(width):
            x, y, crossings = column + 0.5, row + 0.5, 0
            for index in range(len(points)):
                (x0, y0), (x1, y1) = sorted((points[index - 1].tolist(), points[index].tolist()), key=lambda p: p[1])
                if y0 <= y < y1 and x0 + (y - y0) / (y1 - y0) * (x1 - x0) <= x:
                    crossings += 1
            covered[row, column] = crossings % 2
    return covered


def random_polygons(count, seed):
    rng = np.random.default_rng(seed)
    for index in range(count):
        points = rng.uniform(-5, 20, (rng.integers(3, 9), 2))
        yield points if index % 2 else np.round(points * 2) / 2  # every other one has corners on pixel centers


def test_a_pixel_is_covered_if_a_ray_from_its_center_crosses_an_odd_number_of_edges():
    total = 0
    for points in random_polygons(300, seed=0):
        expected = even_odd(points)
        assert (drawn(Polygon(points)) == expected).all(), points.tolist()
        total += expected.sum()
    assert total > 3000


def test_a_square_covers_the_pixels_whose_centers_it_holds_by_hand():
    square = drawn(Polygon(rectangle(1.5, 0.5, 3.5, 2.4)), 4, 5)
    assert square.tolist() == [[0, 1, 1, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]]


def test_a_star_that_crosses_itself_is_hollow_inside():
    star = np.array([[7.5, 0], [12, 12], [0, 4.5], [15, 4.5], [3, 12]])
    assert drawn(Polygon(star))[6, 7] == 0
    assert drawn(Polygon(star))[2, 7] == 1


def test_the_direction_and_the_first_corner_do_not_matter():
    for points in random_polygons(50, seed=1):
        expected = drawn(Polygon(points))
        assert (drawn(Polygon(points[::-1])) == expected).all()
        assert (drawn(Polygon(np.roll(points, 2, axis=0))) == expected).all()


def test_triangles_around_a_point_tile_the_image_without_overlap_or_gap():
    rng = np.random.default_rng(2)
    for index in range(100):
        center = rng.uniform(2, 10, 2)
        center = center if index % 2 else np.floor(center) + 0.5  # on the center of a pixel
        border = np.array([[-3, -3], [7.5, -3], [20, -3], [20, 5.5], [20, 20], [-3, 20]])
        count = sum(
            drawn(Polygon(np.stack([center, border[corner - 1], border[corner]]))).astype(int) for corner in range(6)
        )
        assert (count == 1).all()


def test_random_quadrilaterals_with_common_corners_tile_exactly():
    rng = np.random.default_rng(3)
    corners = np.stack(np.meshgrid(np.linspace(0, 30, 7), np.linspace(0, 24, 7)), axis=-1)
    corners[1:-1, 1:-1] += rng.uniform(-1.2, 1.2, (5, 5, 2))
    count = np.zeros((24, 30), dtype=int)
    for row in range(6):
        for column in range(6):
            cell = corners[[row, row, row + 1, row + 1], [column, column + 1, column + 1, column]]
            count += drawn(Polygon(cell), 24, 30)
    assert (count == 1).all()


def test_what_is_beyond_the_image_is_cut_off():
    assert drawn(Polygon(rectangle(-1e7, -1e7, 1e7, 1e7))).all()
    assert not drawn(Polygon(rectangle(-9, 3, -1, 8))).any()
    assert not drawn(Polygon(rectangle(3, 13, 9, 99))).any()
    far = drawn(Polygon(np.array([[-40, -40], [80.0, 6], [-40, 60]])))
    assert (far == even_odd(np.array([[-40, -40], [80.0, 6], [-40, 60]]))).all()


def test_polygons_without_an_area_cover_nothing():
    for points in ([[2, 2], [8, 8], [2, 2]], [[1, 5.5], [9, 5.5], [4, 5.5]], [[3, 3], [3, 3], [3, 3]]):
        assert not drawn(Polygon(np.array(points, dtype=float))).any()


def test_relative_coordinates_are_fractions_of_width_and_height():
    shape = Polygon(rectangle(0.2, 0.5, 0.6, 1.0), relative=True)
    assert (drawn(shape, 10, 20) == drawn(Polygon(rectangle(4, 5, 12, 10)), 10, 20)).all()


def test_an_ellipse_covers_the_centers_within_its_radii():
    y, x = np.mgrid[:12, :15] + 0.5
    expected = ((x - 6) / 4) ** 2 + ((y - 5) / 2) ** 2 <= 1
    assert (drawn(Ellipse(6, 5, 4, 2)) == expected).all()
    assert expected.sum() == 28  # by hand: rows of 6, 8, 8 and 6
    turned = ((x - 6) / 2) ** 2 + ((y - 5) / 4) ** 2 <= 1
    assert (drawn(Ellipse(6, 5, 4, 2, pi / 2)) == turned).all()


def test_ellipses_turn_clockwise_and_are_cut_off_at_the_border():
    slanted = drawn(Ellipse(7.5, 6, 7, 1, pi / 4))
    assert slanted[9, 11] == 1  # down to the right
    assert slanted[2, 11] == 0
    assert drawn(Ellipse(0, 0, 100, 100)).all()
    assert not drawn(Ellipse(-50, 5, 10, 10)).any()
    assert not drawn(Ellipse(7, 5, 1e-3, 1e-3)).any()


def test_a_rectangle_turns_about_a_center():
    quarter = rotated(rectangle(2, 2, 6, 4), 2, 2, pi / 2)
    assert quarter.round(9).tolist() == [[2, 2], [2, 6], [0, 6], [0, 2]]
    points = rectangle(0, 0, 1, 1)
    assert rotated(points, 5, 5, 0.0) is points


def test_a_polygon_of_too_many_crossings_is_refused_before_they_are_computed():
    zigzag = np.array([[0, 0], [1, 1e6]] * 20_000, dtype=float)
    with pytest.raises(ValueError, match=r"a polygon of 40,000 points crosses 40,000,000 rows; at most 10,000,000"):
        Polygon(zigzag).window(1000, 1000)


def test_a_polygon_of_five_hundred_points_takes_a_few_milliseconds():
    turns = np.linspace(0, 2 * pi, 500, endpoint=False)
    radii = np.random.default_rng(4).uniform(200, 480, 500)
    shape = Polygon(np.stack([500 + radii * np.cos(turns), 500 + radii * np.sin(turns)], axis=1))
    canvas, times = np.zeros((1000, 1000), dtype=np.uint8), []
    for _ in range(5):
        start = time.perf_counter()
        paint(canvas, shape, 1)
        times.append(time.perf_counter() - start)
    assert canvas.sum() > 200_000
    assert min(times) < 0.05  # two on an idle core; without vectors it takes seconds

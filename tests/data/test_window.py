from itertools import product

import numpy as np
import pytest

from finetune.data.window import Window, grid

LARGE, SMALL = [(2048, 2048), (2049, 2048), (2049, 6000), (5000, 4097)], [(1, 1), (7, 100), (16, 101), (34, 51)]


@pytest.mark.parametrize(
    ("size", "tile"),
    [
        *product([*LARGE, *SMALL], [(2048, 2048), (300, 700)]),
        *product(SMALL, [(10, 7), (1, 64), (17, 17)]),
    ],
)
def test_a_grid_covers_each_pixel_once_with_no_window_larger_than_a_tile(size, tile):
    covered = np.zeros(size, np.uint8)
    for window in grid(size, tile):
        covered[window.rows, window.columns] += 1
        assert 0 < window.height <= tile[0]
        assert 0 < window.width <= tile[1]
    assert covered.min() == covered.max() == 1


def test_no_sliver_is_left_at_the_end_of_an_image():
    assert {window.height for window in grid((2049, 64), (2048, 2048))} == {1280, 769}


def test_a_margin_ends_at_the_border_of_the_image():
    assert Window(0, 5, 4, 3).grown(2, (10, 8)) == Window(0, 3, 6, 5)
    assert Window(0, 5, 4, 3).within(Window(0, 3, 6, 5)) == Window(0, 2, 4, 3)

"""Distances between boundaries against scipy, a loop over all pairs, and lines of which the answer is known."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist, directed_hausdorff

from finetune.metrics.surfaces import Distances, assd, hausdorff, hd95, surface_distances


@pytest.mark.parametrize("seed", range(4))
def test_distances_are_those_of_all_pairs_and_the_largest_is_that_of_scipy(seed: int) -> None:
    random = np.random.default_rng(seed)
    true, predicted = random.random((40, 30)) < 0.05, random.random((40, 30)) < 0.02
    predicted[:, :10] = False
    found = surface_distances(true, predicted)
    points, others = np.argwhere(true), np.argwhere(predicted)
    pairs = cdist(points, others)
    assert np.array_equal(np.sort(found.true), np.sort(pairs.min(1)))
    assert np.array_equal(np.sort(found.predicted), np.sort(pairs.min(0)))
    directed = directed_hausdorff(points, others)[0], directed_hausdorff(others, points)[0]
    assert hausdorff(found) == max(directed)
    assert directed[0] != directed[1]
    assert assd(found) == pytest.approx((pairs.min(0).sum() + pairs.min(1).sum()) / sum(pairs.shape))


def test_parallel_lines_are_as_far_apart_as_their_columns() -> None:
    true, predicted = np.zeros((2, 20, 30), dtype=bool)
    true[:, 4] = predicted[:, 7] = True
    found = surface_distances(true, predicted)
    assert (hausdorff(found), hd95(found), assd(found)) == (3, 3, 3)
    predicted[0, 16] = True  # one pixel astray: 12 from the true line, and nothing is nearer to it than before
    found = surface_distances(true, predicted)
    assert (hausdorff(found), hd95(found)) == (12, 3)
    assert assd(found) == pytest.approx((20 * 3 + 20 * 3 + 12) / 41)


def test_the_95th_percentile_is_interpolated_in_each_direction_and_the_larger_one_counts() -> None:
    found = Distances(np.arange(11.0), np.zeros(200))
    assert hd95(found) == pytest.approx(9.5)  # of 0, 1, ... 10; of both directions together it would be 0
    assert hd95(Distances(found.predicted, found.true)) == pytest.approx(9.5)


def test_a_boundary_without_pixels_leaves_no_distances() -> None:
    line, empty = np.ones((1, 5), dtype=bool), np.zeros((1, 5), dtype=bool)
    assert [each.size for each in (*surface_distances(line, empty), *surface_distances(empty, empty))] == [0] * 4

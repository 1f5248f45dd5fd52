"""Votes of windows, counted by loops."""

import numpy as np
import pytest

from finetune.inference.post.smooth import Smooth


def window(labels: np.ndarray, row: int, column: int, radius: int) -> list[int]:
    return (
        labels[max(0, row - radius) : row + radius + 1, max(0, column - radius) : column + radius + 1].ravel().tolist()
    )


@pytest.mark.parametrize("radius", [1, 2, 9])
def test_each_pixel_takes_the_class_of_most(radius: int) -> None:
    labels = np.random.default_rng(0).integers(0, 4, (9, 12), dtype=np.uint8)
    found = Smooth(radius).clean(labels)
    for row, column in np.ndindex(labels.shape):
        around = window(labels, row, column, radius)
        most = max(around.count(label) for label in range(4))
        best = [label for label in range(4) if around.count(label) == most]
        own = int(labels[row, column])
        assert found[row, column] == (own if own in best else best[0])


def test_a_mask_becomes_its_median() -> None:
    masks = np.random.default_rng(0).integers(0, 2, (2, 7, 8), dtype=np.uint8)
    found = Smooth(1).clean(masks)
    assert found.dtype == np.uint8
    for channel, row, column in np.ndindex(masks.shape):
        around = window(masks[channel], row, column, 1)
        own = int(masks[channel, row, column])
        half = 2 * sum(around) - len(around)
        assert found[channel, row, column] == (own if half == 0 else int(half > 0))


def test_a_straight_border_stays() -> None:
    labels = np.zeros((10, 10), dtype=np.uint8)
    labels[:, 4:] = 3
    assert (Smooth(2).clean(labels) == labels).all()

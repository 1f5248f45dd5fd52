"""Boundaries and bands against loops over neighbors; the edges of images and of ignored areas, which make none."""

import numpy as np
import pytest

from finetune.metrics.boundaries import band, contour


@pytest.fixture(params=range(4))
def masks(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    """Return a mask (19, 26) and the pixels that count: blocks, so that there is an inside, and ignored blocks."""
    random = np.random.default_rng(request.param)
    blocks = np.kron(random.random((7, 9)) < 0.6, np.ones((3, 3), dtype=bool))[:19, :26]
    valid = np.kron(random.random((7, 9)) < 0.8, np.ones((3, 3), dtype=bool))[:19, :26]
    return blocks & valid, valid


def looped(mask: np.ndarray, valid: np.ndarray, offsets: list[tuple[int, int]]) -> np.ndarray:
    """Return the pixels of a mask with a pixel that counts, and is not of it, at one of the offsets."""
    found = np.zeros_like(mask)
    for y, x in np.argwhere(mask):
        for dy, dx in offsets:
            row, column = y + dy, x + dx
            if 0 <= row < mask.shape[0] and 0 <= column < mask.shape[1] and valid[row, column]:
                found[y, x] |= not mask[row, column]
    return found


def test_a_boundary_is_where_one_of_four_neighbors_is_outside(masks: tuple[np.ndarray, np.ndarray]) -> None:
    found = contour(*masks)
    assert np.array_equal(found, looped(*masks, [(-1, 0), (1, 0), (0, -1), (0, 1)]))
    assert 0 < found.sum() < masks[0].sum()


@pytest.mark.parametrize("width", [1, 2, 5])
def test_a_band_is_what_lies_in_a_square_around_a_pixel_outside(
    masks: tuple[np.ndarray, np.ndarray], width: int
) -> None:
    square = [(dy, dx) for dy in range(-width, width + 1) for dx in range(-width, width + 1)]
    assert np.array_equal(band(*masks, width), looped(*masks, square))


def test_a_band_may_be_wider_than_the_image() -> None:
    mask = np.zeros((3, 4), dtype=bool)
    mask[:, 1:] = True
    assert np.array_equal(band(mask, np.ones_like(mask), 9), mask)


@pytest.mark.parametrize("edges", [contour, lambda mask, valid: band(mask, valid, 3)])
def test_an_ignored_frame_is_like_no_frame_and_a_full_image_has_no_boundary(edges: object) -> None:
    random = np.random.default_rng(9)
    mask = np.kron(random.random((4, 5)) < 0.5, np.ones((4, 4), dtype=bool))
    framed, valid = np.zeros((24, 28), dtype=bool), np.zeros((24, 28), dtype=bool)
    framed[4:20, 4:24], valid[4:20, 4:24] = mask, True
    assert callable(edges)
    assert np.array_equal(edges(framed, valid)[4:20, 4:24], edges(mask, np.ones_like(mask)))
    assert edges(mask, np.ones_like(mask)).any()
    assert not edges(valid, valid).any()
    assert not edges(np.ones_like(mask), np.ones_like(mask)).any()
    assert not edges(np.zeros_like(mask), np.ones_like(mask)).any()

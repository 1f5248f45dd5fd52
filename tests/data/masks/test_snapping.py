import numpy as np
import pytest
from PIL import Image

from finetune.data.masks.reading import read_mask
from finetune.data.records import DataError


def test_a_blend_takes_the_nearer_of_the_values_around_it_and_not_the_nearest_of_all(write):
    # 96 is nearest to class 1 (100), which is nowhere near: at the border of 0 and 200 it is a blend
    row = [0, 0, 0, 96, 200, 200, 200, 104, 0, 0]
    path = write("m.png", np.repeat(np.array([row], np.uint8), 3, 0))
    assert read_mask(path, [0, 100, 200], snap=True)[1].tolist() == [0, 0, 0, 0, 2, 2, 2, 2, 0, 0]


def test_a_pixel_far_from_every_listed_value_takes_the_nearest_of_all(write):
    pixels = np.full((9, 9), 90, np.uint8)
    pixels[0, 0], pixels[8, 8] = 0, 200
    labels = read_mask(write("m.png", pixels), [0, 100, 200], snap=True)
    assert labels[4, 4] == 1
    assert labels[0, 1] == 0


def test_two_values_are_cut_in_the_middle_like_a_threshold(write):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40)).astype(np.uint8)
    pixels[::3, ::3], pixels[1::3, 1::3] = 0, 255  # both are near every pixel
    labels = read_mask(write("m.png", pixels), [0, 255], snap=True)
    assert np.array_equal(labels.numpy(), pixels > 127)


def test_colors_are_compared_by_their_distance(write):
    colors = np.array([[[0, 0, 0], [0, 0, 0], [20, 90, 30], [40, 180, 60], [22, 110, 33], [200, 60, 160]]], np.uint8)
    labels = read_mask(write("m.png", colors), ["#000000", "#28b43c", "#c83ca0"], snap=True)
    assert labels.tolist() == [[0, 0, 0, 1, 1, 2]]


def test_what_is_ignored_is_taken_only_where_it_is_near(write):
    pixels = np.zeros((9, 9), np.uint8)
    pixels[4, 4], pixels[0, 0], pixels[8, 8], pixels[8, 7] = 240, 200, 255, 250
    labels = read_mask(write("m.png", pixels), [200, 100], ignore_index=[0, 255], snap=True)
    assert labels[8, 7] == 255
    assert read_mask(write("n.png", np.full((3, 3), 240, np.uint8)), [0, 200], snap=True).unique().tolist() == [1]


def brute_force(pixels: np.ndarray, listed: list[int]) -> np.ndarray:
    """Return the snapped classes by looking at each pixel and its surroundings one after the other."""
    result = np.zeros(pixels.shape, int)
    for y, x in np.ndindex(*pixels.shape):
        around = pixels[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3].ravel()
        near = [value for value in listed if value in around] or listed
        result[y, x] = listed.index(min(near, key=lambda value: abs(value - int(pixels[y, x]))))
        if pixels[y, x] in listed:
            result[y, x] = listed.index(pixels[y, x])
    return result


@pytest.mark.parametrize("seed", range(6))
def test_snapping_equals_a_search_pixel_by_pixel(write, seed):
    random = np.random.default_rng(seed)
    listed = sorted(random.choice(np.arange(0, 256, 7), 4, replace=False).tolist())
    pixels = np.where(random.random((12, 15)) < 0.3, random.choice(listed, (12, 15)), random.integers(0, 256, (12, 15)))
    # no ties: which of two equally similar values is taken does not matter
    middles = {(a + b) // 2 for a in listed for b in listed if (a + b) % 2 == 0 and a != b}
    pixels = np.where(np.isin(pixels, list(middles)), listed[0], pixels)
    labels = read_mask(write("m.png", pixels.astype(np.uint8)), listed, ignore_index=999, snap=True)
    assert np.array_equal(labels.numpy(), brute_force(pixels, listed))


def test_without_snapping_other_values_are_refused_with_the_way_out(write):
    path = write("m.png", np.array([[0, 3, 255]], np.uint8))
    with pytest.raises(DataError, match=r"m\.png' has values that are neither .*: 3 \(1 px\).*data\.snap=true"):
        read_mask(path, [0, 255])


def test_soft_borders_of_a_resized_mask_become_what_the_hard_mask_has(tmp_path):
    hard = np.zeros((120, 120), np.uint8)
    hard[20:70, 30:90], hard[80:110, 20:60] = 255, 128
    soft = Image.fromarray(hard).resize((60, 60), Image.Resampling.BILINEAR)
    soft.save(tmp_path / "soft.png")
    Image.fromarray(hard).resize((60, 60), Image.Resampling.NEAREST).save(tmp_path / "hard.png")
    snapped = read_mask(tmp_path / "soft.png", [0, 128, 255], 7, snap=True)
    assert (snapped == read_mask(tmp_path / "hard.png", [0, 128, 255], 7)).float().mean() > 0.98

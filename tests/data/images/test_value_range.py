import numpy as np
import pytest

from finetune.data.images.pixels import Pixels
from finetune.data.images.value_range import RangeFinder, eight_bit, value_pairs
from finetune.data.records import DataError

TYPES = (np.uint16, np.int16, np.int32, np.uint32, np.float32, np.float64, np.int8)


def image(values, alpha=False):
    return Pixels(np.asarray(values), alpha)


def by_hand(values, low, high):
    """Map one value after the other."""
    return [round(min(max((float(value) - low) * 255 / (high - low), 0), 255)) for value in values.flatten()]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("value_range", [(-7, 101), (0.25, 99.5), (3, 4)])
def test_values_are_mapped_linearly_rounded_and_clipped(dtype, value_range):
    values = np.random.default_rng(0).uniform(0 if np.dtype(dtype).kind == "u" else -100, 120, (5, 6, 2)).astype(dtype)
    mapped = eight_bit(image(values), value_range, "it").values
    assert mapped.dtype == np.uint8
    assert mapped.flatten().tolist() == by_hand(values, *value_range)


def test_each_band_has_its_own_pair():
    values = np.array([[[10, 1000, 5]]], dtype=np.uint16)
    assert eight_bit(image(values), [[0, 20], [0, 1000], [5, 6]], "it").values.tolist() == [[[128, 255, 0]]]
    with pytest.raises(DataError, match="it has 3 bands, but value_range has 2 pairs"):
        eight_bit(image(values), [[0, 1], [0, 1]], "it")


@pytest.mark.parametrize(("dtype", "opaque"), [(np.uint16, 65_535), (np.float32, 1.0)])
def test_alpha_keeps_its_meaning(dtype, opaque):
    values = np.array([[[10, 20, 30, opaque], [10, 20, 30, 0]]], dtype=dtype)
    assert eight_bit(image(values, alpha=True), [0, 30], "it").values[..., 3].tolist() == [[255, 0]]


def test_what_is_no_number_is_black_and_infinity_is_clipped():
    values = np.array([[[np.nan, np.inf, -np.inf, 1.0]]], dtype=np.float32)
    assert eight_bit(image(values), [0, 1], "it").values.tolist() == [[[0, 255, 0, 255]]]


def test_nothing_is_guessed_without_a_range():
    with pytest.raises(DataError, match=r"it holds 16-bit values, .*data\.value_range=\[low,high\]"):
        eight_bit(image(np.zeros((1, 1, 1), np.uint16)), None, "it")
    byte = image(np.full((1, 1, 1), 9, np.uint8))
    assert eight_bit(byte, None, "it") is eight_bit(byte, [0, 5], "it") is byte


@pytest.mark.parametrize(
    "value_range",
    [
        [],
        [1],
        [1, 1],
        [2, 1],
        [0, 1, 2],
        "ab",
        ["a", "b"],
        [[0, 1], [1, 0]],
        [[0, 1], 2],
        [0, float("nan")],
        [True, 5],
        3,
    ],
)
def test_ranges_that_are_none_are_refused(value_range):
    with pytest.raises(ValueError, match=r"value_range=.*: expected \[low,high\]"):
        value_pairs(value_range)


def found(colors, *images):
    finder = RangeFinder(colors)
    for each in images:
        finder.add(each)
    return finder.found()


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.int32])
@pytest.mark.parametrize("bands", [1, 3])
def test_integers_have_the_percentiles_of_all_pixels(dtype, bands):
    random = np.random.default_rng(0)
    sets = [random.normal(900, 300 + 200 * i, (40, 50, bands)).clip(0, 30_000).astype(dtype) for i in range(4)]
    every = np.concatenate([values.flatten() for values in sets])
    expected = np.quantile(every, [0.001, 0.999], method="inverted_cdf").tolist()
    assert found(bands, *map(image, sets)) == expected
    assert every.max() > expected[1]  # the brightest pixels do not decide


def test_bands_that_are_no_color_have_a_range_each():
    values = np.random.default_rng(0).integers(0, 60_000, (60, 70, 5), dtype=np.uint16) // np.array([1, 2, 3, 4, 5])
    ends = [np.quantile(values[..., band], [0.001, 0.999], method="inverted_cdf").tolist() for band in range(5)]
    assert found(5, image(values.astype(np.uint16))) == ends


def test_other_numbers_go_from_the_lowest_to_the_highest_percentile_of_an_image():
    random = np.random.default_rng(0)
    sets = [random.normal(1e6 * i, 5, (40, 50, 1)).astype(np.float32) for i in range(3)]
    sets[1][0, 0] = np.nan
    ends = [np.quantile(values[np.isfinite(values)], [0.001, 0.999], method="inverted_cdf") for values in sets]
    assert found(1, *map(image, sets)) == [min(low for low, _ in ends), max(high for _, high in ends)]


def test_alpha_does_not_count():
    values = np.dstack([np.full((9, 9, 3), 100), np.full((9, 9), 65_535)]).astype(np.uint16)
    values[0] = 50
    assert found(3, image(values, alpha=True)) == [50, 100]


def test_images_of_one_value_have_a_range_and_images_without_numbers_have_none():
    assert found(1, image(np.full((3, 3, 1), 7, np.uint16))) == [7, 8]
    assert found(1, image(np.full((3, 3, 1), np.nan, np.float32))) is None
